//! The start of a connection: parameters out, authentication, parameters in.

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::frontend;

use super::{Connect, Connection, Password, SETTINGS, ServerError, WireError, unsendable};

impl Connection {
    /// From the first byte to the first ReadyForQuery.
    pub(super) async fn log_in(
        &mut self,
        connect: &Connect,
        password: Option<&Password>,
    ) -> Result<(), WireError> {
        self.send_startup(connect)?;
        self.authenticate(connect, password).await?;
        loop {
            let (tag, body) = self.next_frame().await?;
            let body = self.input.slice(body);
            match tag {
                b'K' => {
                    let pid = body.first_chunk::<4>().copied();
                    self.backend_pid = pid.map_or(0, i32::from_be_bytes);
                }
                b'Z' => return Ok(()),
                b'E' => return Err(Box::new(ServerError::parse(body)).into()),
                // Only a later protocol than 3.0 would be talked down; 3.0 is what was asked for.
                b'v' => {}
                _ => return Err(WireError::Protocol("an unexpected message during the start")),
            }
        }
    }

    fn send_startup(&mut self, connect: &Connect) -> Result<(), WireError> {
        let mut parameters = vec![
            ("user", connect.user.as_str()),
            ("database", connect.database.as_str()),
            ("application_name", connect.application_name.as_str()),
        ];
        if connect.replication {
            parameters.push(("replication", "database"));
        }
        let own = connect.options.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let overridden = |name: &str| connect.options.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
        parameters.extend(SETTINGS.into_iter().filter(|(name, _)| !overridden(name)));
        parameters.extend(own);
        frontend::startup_message(parameters, &mut self.output).map_err(unsendable)
    }

    async fn authenticate(
        &mut self,
        connect: &Connect,
        password: Option<&Password>,
    ) -> Result<(), WireError> {
        let password = || wanted(connect, password);
        let mut scram: Option<ScramSha256> = None;
        loop {
            let (tag, body) = self.next_frame().await?;
            let body = self.input.slice(body);
            if tag == b'E' {
                return Err(Box::new(ServerError::parse(body)).into());
            }
            let Some((method, rest)) = body.split_first_chunk::<4>() else {
                return Err(WireError::Protocol("a message ends too early during the start"));
            };
            if tag != b'R' {
                return Err(WireError::Protocol("an unexpected message during the start"));
            }
            match u32::from_be_bytes(*method) {
                0 => return Ok(()),
                3 => {
                    let password = password()?.0.as_bytes();
                    frontend::password_message(password, &mut self.output).map_err(unsendable)?;
                }
                5 => {
                    let Ok(salt) = <[u8; 4]>::try_from(rest) else {
                        return Err(WireError::Protocol("a salt has four bytes"));
                    };
                    let password = password()?.0.as_bytes();
                    let hash = md5_hash(connect.user.as_bytes(), password, salt);
                    frontend::password_message(hash.as_bytes(), &mut self.output).map_err(unsendable)?;
                }
                10 => {
                    let (mechanism, binding) = mechanism(rest, self.stream.end_point())?;
                    tracing::debug!(tls = self.stream.protection(), mechanism, "log in to postgresql");
                    let begun = ScramSha256::new(password()?.0.as_bytes(), binding);
                    frontend::sasl_initial_response(mechanism, begun.message(), &mut self.output)
                        .map_err(unsendable)?;
                    scram = Some(begun);
                }
                11 => {
                    let Some(scram) = &mut scram else { return Err(out_of_turn()) };
                    scram.update(rest).map_err(|error| WireError::Auth(error.to_string()))?;
                    frontend::sasl_response(scram.message(), &mut self.output).map_err(unsendable)?;
                }
                // The server shows that it knows the password as well.
                12 => {
                    let Some(scram) = &mut scram else { return Err(out_of_turn()) };
                    scram.finish(rest).map_err(|error| WireError::Auth(error.to_string()))?;
                }
                other => {
                    return Err(WireError::Auth(format!(
                        "the server wants method {other}, which is not known here; \
                         allow scram-sha-256 for this role in pg_hba.conf"
                    )));
                }
            }
        }
    }
}

/// Which SCRAM, of those that the server offers; `end_point` is what the connection can be bound to.
fn mechanism(
    offered: &[u8],
    end_point: Option<Vec<u8>>,
) -> Result<(&'static str, ChannelBinding), WireError> {
    let is_offered =
        |name: &str| offered.split(|&byte| byte == 0).any(|mechanism| mechanism == name.as_bytes());
    match end_point {
        Some(hash) if is_offered(SCRAM_SHA_256_PLUS) => {
            Ok((SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash)))
        }
        // Said under the login's own signature, so that nobody between can have taken the better one away.
        Some(_) if is_offered(SCRAM_SHA_256) => Ok((SCRAM_SHA_256, ChannelBinding::unrequested())),
        None if is_offered(SCRAM_SHA_256) => Ok((SCRAM_SHA_256, ChannelBinding::unsupported())),
        _ => Err(WireError::Auth("the server offers no SCRAM-SHA-256; allow it in pg_hba.conf".to_owned())),
    }
}

fn wanted<'a>(connect: &Connect, password: Option<&'a Password>) -> Result<&'a Password, WireError> {
    password.ok_or_else(|| {
        WireError::Auth(format!(
            "the server wants a password for role {}, and none is configured",
            connect.user
        ))
    })
}

fn out_of_turn() -> WireError {
    WireError::Protocol("a SCRAM message out of turn")
}
