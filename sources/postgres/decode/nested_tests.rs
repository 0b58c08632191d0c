//! Composites, ranges, hstore and geometries.
#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;
use serde_json::Value;

fn json(decoder: &Decoder, text: &str) -> String {
    let mut out = b"before".to_vec();
    decoder.append(text.as_bytes(), &mut out).unwrap();
    String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned()
}

fn fault(decoder: &Decoder, text: &str) -> Option<DecodeError> {
    decoder.append(text.as_bytes(), &mut Vec::new()).err()
}

fn composite(attributes: &[(&str, Decoder)], dropped: usize) -> Decoder {
    let attributes = attributes.iter().map(|(name, decoder)| (*name, decoder.clone()));
    Decoder::Composite(Arc::new(Attributes::new(attributes, dropped)))
}

fn pair() -> Decoder {
    composite(&[("n", Decoder::Number), ("t", Decoder::Text)], 0)
}

fn texts() -> Decoder {
    Decoder::array_of(Decoder::Text, b',')
}

fn range(bound: Decoder) -> Decoder {
    Decoder::Range(Box::new(bound))
}

#[test]
fn t11_a_composite_is_an_object_by_the_names_of_its_attributes() {
    for (text, expected) in [
        ("(1,a)", r#"{"n":1,"t":"a"}"#),
        ("(,)", r#"{"n":null,"t":null}"#),
        (r#"(1,"")"#, r#"{"n":1,"t":""}"#),
        (r#"(-3,"a ""b"" \\ (c),")"#, r#"{"n":-3,"t":"a \"b\" \\ (c),"}"#),
        ("(NaN,NULL)", r#"{"n":"NaN","t":"NULL"}"#),
        ("(1,\"a\nb\")", r#"{"n":1,"t":"a\nb"}"#),
    ] {
        assert_eq!(json(&pair(), text), expected, "{text}");
    }
    let nested = composite(&[("p", pair()), ("all", Decoder::array_of(pair(), b',')), ("x", texts())], 0);
    assert_eq!(
        json(&nested, r#"("(1,""a b"")","{""(2,\\""\\""\\""q\\""\\""\\"")"",NULL}","{a,NULL,""b,c""}")"#),
        r#"{"p":{"n":1,"t":"a b"},"all":[{"n":2,"t":"\"q\""},null],"x":["a",null,"b,c"]}"#
    );
    assert_eq!(
        json(&composite(&[(".", Decoder::Text), ("a\"b", Decoder::Boolean)], 0), "(x,t)"),
        r#"{".":"x","a\"b":true}"#
    );
    assert_eq!(json(&composite(&[], 0), "()"), "{}");
    assert_eq!(json(&composite(&[("a", Decoder::Text)], 0), "()"), r#"{"a":null}"#);
}

#[test]
fn t09_a_composite_of_another_time_never_has_a_value_under_another_name() {
    let (one, three) = ("(1)", "(1,a,2)");
    assert_eq!(json(&pair(), one), r#"{"n":1}"#, "from before ADD ATTRIBUTE");
    assert_eq!(fault(&pair(), three), Some(DecodeError::AttributeAdded));
    let two_of_three = composite(&[("n", Decoder::Number), ("u", Decoder::Text)], 1);
    assert_eq!(fault(&two_of_three, three), Some(DecodeError::AttributeDropped));
    assert_eq!(fault(&two_of_three, "(1,a,2,3)"), Some(DecodeError::AttributeAdded));
}

#[test]
fn what_is_no_composite_is_refused() {
    for text in
        ["", "(", ")", "1,a", "(1,a", "(1,a)b", "(1,\"a)", "(1,\"a\"b)", "(1,a\"b\")", "(1,a\\b)", "(1,\"\\"]
    {
        assert_eq!(fault(&pair(), text), Some(DecodeError::Composite), "{text}");
    }
    assert_eq!(fault(&pair(), "(x1,a)"), None, "a number's own words are strings");
    assert_eq!(fault(&pair(), "(1x,a)"), Some(DecodeError::Number));
}

#[test]
fn t11_a_range_is_what_range_fields_take() {
    for (text, expected) in [
        ("[1,5)", r#"{"gte":1,"lt":5}"#),
        ("(1.5,2]", r#"{"gt":1.5,"lte":2}"#),
        ("(,5)", r#"{"lt":5}"#),
        ("[1,)", r#"{"gte":1}"#),
        ("(,)", "{}"),
        ("empty", "[]"),
        ("[-Infinity,NaN)", r#"{"gte":"-Infinity","lt":"NaN"}"#),
    ] {
        assert_eq!(json(&range(Decoder::Number), text), expected, "{text}");
    }
    assert_eq!(
        json(&range(Decoder::TimestampTz), r#"["2026-01-01 00:00:00+00",infinity)"#),
        r#"{"gte":"2026-01-01T00:00:00Z","lt":"infinity"}"#
    );
    assert_eq!(json(&range(Decoder::Text), r#"["",",""]\\ "]"#), r#"{"gte":"","lte":",\"]\\ "}"#);
    let many = Decoder::Multirange(Box::new(Decoder::Number));
    assert_eq!(json(&many, "{}"), "[]");
    assert_eq!(json(&many, "{(,1),[3,5),[7,)}"), r#"[{"lt":1},{"gte":3,"lt":5},{"gte":7}]"#);
    assert_eq!(
        json(&Decoder::array_of(range(Decoder::Number), b','), r#"{"[1,2)",empty,NULL}"#),
        r#"[{"gte":1,"lt":2},[],null]"#
    );
    for text in ["", "[", "[1", "[1,", "[1,2", "1,2)", "[1,2)3", "[1,2,3)", "(1)", "[\"1,2)", "EMPTY"] {
        assert_eq!(fault(&range(Decoder::Number), text), Some(DecodeError::Range), "{text}");
    }
    for text in ["", "{", "{[1,2)", "{[1,2),}", "{,}", "{[1,2)}x", "{empty}", "[1,2)", "{[1,2)[3,4)}"] {
        assert_eq!(fault(&many, text), Some(DecodeError::Range), "{text}");
    }
}

#[test]
fn t11_hstore_is_an_object_of_strings() {
    for (text, expected) in [
        ("", "{}"),
        (r#""a"=>"1""#, r#"{"a":"1"}"#),
        (r#""a"=>"1", "b c"=>NULL, ""=>"""#, r#"{"a":"1","b c":null,"":""}"#),
        (r#""q\"\\"=>"\\\\", ".."=>"NULL""#, r#"{"q\"\\":"\\\\","..":"NULL"}"#),
    ] {
        assert_eq!(json(&Decoder::Hstore, text), expected, "{text}");
    }
    for text in [
        "a",
        "\"a",
        "\"a\"",
        "\"a\"=>",
        "\"a\"=>b",
        "\"a\"=>\"b",
        "\"a\"=>NULL,",
        "\"a\"=>NULL, ",
        "\"a\"=>\"\\",
        "\"a\"=>NULLx",
    ] {
        assert_eq!(fault(&Decoder::Hstore, text), Some(DecodeError::Hstore), "{text}");
    }
}

/// The first ones stand in PostGIS's manual and in the tests of its regress suite; the others were put
/// together by its description of EWKB.
#[test]
fn t11_a_geometry_is_geojson() {
    for (text, expected) in [
        ("0101000000000000000000F03F0000000000000040", r#"{"type":"Point","coordinates":[1,2]}"#),
        ("0101000020E6100000000000000000F03F0000000000000040", r#"{"type":"Point","coordinates":[1,2]}"#),
        (
            "0101000020110F0000000000000000F03F0000000000000040",
            r#"{"srid":3857,"geometry":{"type":"Point","coordinates":[1,2]}}"#,
        ),
        ("00000000013FF00000000000004000000000000000", r#"{"type":"Point","coordinates":[1,2]}"#),
        (
            "0101000080000000000000F03F00000000000000400000000000000840",
            r#"{"type":"Point","coordinates":[1,2,3]}"#,
        ),
        (
            "0101000040000000000000F03F00000000000000400000000000000840",
            r#"{"type":"Point","coordinates":[1,2]}"#,
        ),
        (
            "01010000C0000000000000F03F000000000000004000000000000008400000000000001040",
            r#"{"type":"Point","coordinates":[1,2,3]}"#,
        ),
        ("0101000000000000000000F87F000000000000F87F", r#"{"type":"Point","coordinates":[]}"#),
        ("010200000000000000", r#"{"type":"LineString","coordinates":[]}"#),
        (
            "01020000000200000000000000000000000000000000000000000000000000F03F000000000000F03F",
            r#"{"type":"LineString","coordinates":[[0,0],[1,1]]}"#,
        ),
        ("010700000000000000", r#"{"type":"GeometryCollection","geometries":[]}"#),
    ] {
        assert_eq!(json(&Decoder::Geometry, text), expected, "{text}");
    }
    let point = "0101000000000000000000F03F0000000000000040";
    let ring = format!("04000000{}", "0000000000000000000000000000F03F".repeat(4));
    let polygon = format!("010300000001000000{ring}");
    let ring_json = "[[0,1],[0,1],[0,1],[0,1]]";
    for (text, expected) in [
        (polygon.clone(), format!(r#"{{"type":"Polygon","coordinates":[{ring_json}]}}"#)),
        (format!("010400000001000000{point}"), r#"{"type":"MultiPoint","coordinates":[[1,2]]}"#.to_owned()),
        (
            "010500000001000000010200000000000000".to_owned(),
            r#"{"type":"MultiLineString","coordinates":[[]]}"#.to_owned(),
        ),
        (
            format!("010600000002000000{polygon}{polygon}"),
            format!(r#"{{"type":"MultiPolygon","coordinates":[[{ring_json}],[{ring_json}]]}}"#),
        ),
        (
            format!("010700000002000000{point}{polygon}"),
            format!(
                r#"{{"type":"GeometryCollection","geometries":[{{"type":"Point","coordinates":[1,2]}},{{"type":"Polygon","coordinates":[{ring_json}]}}]}}"#
            ),
        ),
    ] {
        assert_eq!(json(&Decoder::Geometry, &text), expected);
    }
}

#[test]
fn what_geojson_cannot_say_stays_the_text() {
    let deep = format!("{}{}", "010700000001000000".repeat(40), "010700000000000000");
    for text in [
        "",
        "01",
        "0101000000",
        "zz01000000000000000000F03F0000000000000040",
        "0101000000000000000000F03F000000000000004000",
        "010800000000000000",
        "0102000000FFFFFFFF",
        "0101000000000000000000F87F0000000000000040",
        "0101000000000000000000F07F0000000000000040",
        "010400000001000000010200000000000000",
        "not a geometry",
        &deep,
    ] {
        assert_eq!(json(&Decoder::Geometry, text), serde_json::to_string(text).unwrap(), "{text}");
    }
}

#[test]
fn only_what_loses_nothing_can_be_a_key() {
    assert!(pair().tells_all_apart() && range(Decoder::Number).tells_all_apart());
    assert!(Decoder::Hstore.tells_all_apart() && Decoder::Text.tells_all_apart());
    assert!(!texts().tells_all_apart() && !Decoder::Geometry.tells_all_apart());
    assert!(!composite(&[("a", texts())], 0).tells_all_apart());
    assert!(!range(composite(&[("a", Decoder::Geometry)], 0)).tells_all_apart());
}

#[test]
fn a_value_ends_at_its_room_however_little_text_it_was() {
    let wide: Vec<(String, Decoder)> = (0..1000).map(|n| (format!("{:060}", n), Decoder::Text)).collect();
    let wide: Vec<(&str, Decoder)> = wide.iter().map(|(name, of)| (name.as_str(), of.clone())).collect();
    let within = |decoder: &Decoder, text: &str, most: usize| {
        let mut out = Vec::new();
        let done = decoder.append_within(text.as_bytes(), &mut out, Room { most, rest: 0 });
        assert!(out.len() <= most + 200, "{} bytes", out.len());
        done
    };
    let commas = format!("({})", ",".repeat(999));
    assert_eq!(within(&composite(&wide, 0), &commas, 10_000), Err(DecodeError::TooLarge));
    assert_eq!(within(&composite(&wide, 0), &commas, 100_000), Ok(()));
    let many = format!("{{{}(,)}}", "[1,2),".repeat(1000));
    assert_eq!(
        within(&Decoder::Multirange(Box::new(Decoder::Number)), &many, 1000),
        Err(DecodeError::TooLarge)
    );
    let hstore = format!("{}\"a\"=>NULL", "\"a\"=>NULL, ".repeat(1000));
    assert_eq!(within(&Decoder::Hstore, &hstore, 1000), Err(DecodeError::TooLarge));
    let empty = format!("0107000000E8030000{}", "010700000000000000".repeat(1000));
    assert_eq!(within(&Decoder::Geometry, &empty, 1000), Err(DecodeError::TooLarge));
}

#[test]
fn copies_of_quoted_parts_are_bounded() {
    // Each level is quoted whole, so each is copied once more.
    let mut decoder = Decoder::Text;
    let mut text = "x".repeat(200_000);
    for _ in 0..2 {
        decoder = composite(&[("a", decoder)], 0);
        text = record_out(&[Some(text)]);
    }
    assert_eq!(fault(&decoder, &text), None, "what people have");
    for _ in 0..6 {
        decoder = composite(&[("a", decoder)], 0);
        text = record_out(&[Some(format!("{text} "))]).replace(" \")", "\")");
    }
    assert_eq!(fault(&decoder, &text), Some(DecodeError::TooLarge));
}

/// As record_out quotes a part; range_out does it alike.
fn quoted_out(text: &str) -> String {
    let odd = |c: char| matches!(c, '"' | '\\' | '(' | ')' | '[' | ']' | ',') || c.is_whitespace();
    match text.is_empty() || text.contains(odd) {
        true => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

fn record_out(parts: &[Option<String>]) -> String {
    let parts: Vec<String> =
        parts.iter().map(|part| part.as_deref().map(quoted_out).unwrap_or_default()).collect();
    format!("({})", parts.join(","))
}

fn part() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c,()\\[\\]\"\\\\ \n]{0,6}", ".{0,9}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn a_composite_in_a_composite_comes_back(parts in prop::collection::vec(prop::option::of(part()), 3), outer in part()) {
        let inner = composite(&[("a", Decoder::Text), ("b", Decoder::Text), ("c", Decoder::Text)], 0);
        let decoder = composite(&[("in", inner), ("x", Decoder::Text)], 0);
        let text = record_out(&[Some(record_out(&parts)), Some(outer.clone())]);
        let back: Value = serde_json::from_str(&json(&decoder, &text)).unwrap();
        prop_assert_eq!(back, serde_json::json!({"in": {"a": parts[0], "b": parts[1], "c": parts[2]}, "x": outer}));
    }

    #[test]
    fn a_range_of_texts_comes_back(lower in part(), upper in part()) {
        let text = format!("[{},{})", quoted_out(&lower), quoted_out(&upper));
        let expected = serde_json::json!({"gte": lower, "lt": upper});
        let back: Value = serde_json::from_str(&json(&range(Decoder::Text), &text)).unwrap();
        prop_assert_eq!(&back, &expected);
        let many: Value =
            serde_json::from_str(&json(&Decoder::Multirange(Box::new(Decoder::Text)), &format!("{{{text},{text}}}"))).unwrap();
        prop_assert_eq!(many, serde_json::json!([expected, expected]));
    }

    #[test]
    fn an_hstore_comes_back(pairs in prop::collection::btree_map(part(), prop::option::of(part()), 0..5)) {
        let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let pair = |(key, value): (&String, &Option<String>)| {
            format!("{}=>{}", quoted(key), value.as_deref().map_or("NULL".to_owned(), quoted))
        };
        let text = pairs.iter().map(pair).collect::<Vec<_>>().join(", ");
        let back: Value = serde_json::from_str(&json(&Decoder::Hstore, &text)).unwrap();
        prop_assert_eq!(back, serde_json::json!(pairs));
    }

    #[test]
    fn a_line_comes_back_to_the_last_bit(points in prop::collection::vec((any::<f64>(), any::<f64>()), 0..5)) {
        let finite: Vec<_> = points.into_iter().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
        let hex = |bytes: [u8; 8]| bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>();
        let mut text = format!("0102000000{:02X}000000", finite.len());
        finite.iter().for_each(|(x, y)| text += &(hex(x.to_le_bytes()) + &hex(y.to_le_bytes())));
        let back = json(&Decoder::Geometry, &text);
        prop_assert!(serde_json::from_str::<Value>(&back).is_ok(), "{}", back);
        // serde_json would round them.
        let (_, list) = back.trim_end_matches('}').split_once("\"coordinates\":").unwrap();
        let numbers = list.split(['[', ']', ',']).filter(|text| !text.is_empty());
        let back: Vec<u64> = numbers.map(|text| text.parse::<f64>().unwrap().to_bits()).collect();
        let expected: Vec<u64> = finite.iter().flat_map(|(x, y)| [x.to_bits(), y.to_bits()]).collect();
        prop_assert_eq!(back, expected);
    }

    #[test]
    fn no_text_makes_one_panic_or_break_the_json(
        text in prop_oneof!["[\\[\\](){},\"\\\\a=>N1 ]{0,24}", "empty.{0,2}", "[0-9A-F]{0,80}", "01(0[1-7]){0,9}[0-9A-F]{0,99}"]
    ) {
        let nested = composite(&[("p", pair()), ("x", texts()), ("r", range(Decoder::Number))], 0);
        let many = Decoder::Multirange(Box::new(texts()));
        for decoder in [pair(), nested, range(pair()), many, Decoder::Hstore, Decoder::Geometry, Decoder::array_of(pair(), b',')] {
            let mut out = Vec::new();
            if decoder.append(text.as_bytes(), &mut out).is_ok() {
                let parsed: Result<Value, _> = serde_json::from_slice(&out);
                prop_assert!(parsed.is_ok(), "{:?} {}", decoder, String::from_utf8_lossy(&out));
                prop_assert!(!out.iter().any(|byte| matches!(byte, b'\n' | b'\r')));
            }
        }
    }
}
