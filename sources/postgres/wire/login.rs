//! The start of a connection: parameters out, authentication, parameters in.

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;

use super::{Connect, Connection, Password, SETTINGS, ServerError, WireError, unsendable};

impl Connection {
    /// From the first byte to the first ReadyForQuery.
    pub(super) async fn log_in(&mut self, connect: &Connect) -> Result<(), WireError> {
        self.send_startup(connect)?;
        self.authenticate(connect).await?;
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

    async fn authenticate(&mut self, connect: &Connect) -> Result<(), WireError> {
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
                    let password = password(connect)?.0.as_bytes();
                    frontend::password_message(password, &mut self.output).map_err(unsendable)?;
                }
                5 => {
                    let Ok(salt) = <[u8; 4]>::try_from(rest) else {
                        return Err(WireError::Protocol("a salt has four bytes"));
                    };
                    let password = password(connect)?.0.as_bytes();
                    let hash = md5_hash(connect.user.as_bytes(), password, salt);
                    frontend::password_message(hash.as_bytes(), &mut self.output).map_err(unsendable)?;
                }
                10 => {
                    let mut offered = rest.split(|&byte| byte == 0);
                    if !offered.any(|mechanism| mechanism == SCRAM_SHA_256.as_bytes()) {
                        return Err(WireError::Auth(
                            "the server offers no SCRAM-SHA-256; allow it in pg_hba.conf".to_owned(),
                        ));
                    }
                    // Without TLS there is no channel to bind to.
                    let begun =
                        ScramSha256::new(password(connect)?.0.as_bytes(), ChannelBinding::unsupported());
                    frontend::sasl_initial_response(SCRAM_SHA_256, begun.message(), &mut self.output)
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

fn password(connect: &Connect) -> Result<&Password, WireError> {
    connect.password.as_ref().ok_or_else(|| {
        WireError::Auth(format!(
            "the server wants a password for role {}, and none is configured",
            connect.user
        ))
    })
}

fn out_of_turn() -> WireError {
    WireError::Protocol("a SCRAM message out of turn")
}
