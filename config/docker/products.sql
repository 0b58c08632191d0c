-- Run by the postgres image of docker-compose.yml when its volume is new: something to search for.
CREATE TABLE products (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL,
  description text,
  price numeric(10, 2),
  updated_at timestamptz NOT NULL DEFAULT now()
);

INSERT INTO products (name, description, price)
SELECT 'product ' || n, 'the description of product ' || n, n % 100
FROM generate_series(1, 10000) AS n;
