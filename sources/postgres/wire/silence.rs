//! An answer that does not come.
//!
//! ```text
//!   question ──► …… SILENCE …… ──► another connection: is the process of this one at work?
//!                  ▲                    │ yes: a lock is waited for, a slot is being made
//!                  └────────────────────┤
//!                                       └ no, or nobody answers: GRACE, and the connection is over
//! ```
//! A connection that is half open (a firewall forgot it, a balancer lost what was behind it) says nothing
//! for ever, and where something between answers TCP's keepalives these find nothing. A time limit alone
//! would end what rightly takes hours, so the server is asked.
//!
//! For answers only: the stream of the log asks its server for a sign by itself.

use std::time::Duration;

use super::{Connection, WireError};
use crate::world::{BoxFuture, within};

/// So long nothing comes before the server is asked. Longer than any statement of ours takes that waits
/// for nobody; short beside a person's patience.
const SILENCE: Duration = Duration::from_secs(15);
/// How long that question may take, its connection included.
const LOOK: Duration = Duration::from_secs(10);
/// An answer that had been sent when the server was asked comes within this.
const GRACE: Duration = Duration::from_secs(3);

impl Connection {
    /// As [`Connection::fill`], where an answer is due. Dropping it loses nothing.
    pub(super) async fn hear(&mut self) -> Result<(), WireError> {
        let world = self.world.clone();
        loop {
            if let Some(filled) = within(&*world, SILENCE, self.fill()).await {
                return filled;
            }
            // While it logs in, `open` has a limit of its own.
            let mut asked = (self.backend_pid != 0).then(|| self.ask_elsewhere());
            let is_at_work = match &mut asked {
                Some(asking) => tokio::select! {
                    biased;
                    filled = self.fill() => return filled,
                    is_at_work = asking => is_at_work,
                },
                None => true,
            };
            if is_at_work {
                continue;
            }
            let last = within(&*world, GRACE, self.fill()).await;
            return last.unwrap_or(Err(WireError::Silent { seconds: SILENCE.as_secs() }));
        }
    }

    /// Whether the server says that the process of this connection is at work. Free of the connection, so
    /// that it can be listened to meanwhile.
    fn ask_elsewhere(&self) -> BoxFuture<'static, bool> {
        let (connect, world, pid) = (self.connect.clone(), self.world.clone(), self.backend_pid);
        Box::pin(async move {
            let asking = async {
                let mut other = Connection::open(&connect.for_questions(), &world, LOOK).await?;
                // A process that waits for its client, or for more log to send, has no answer under way.
                const SQL: &str = "SELECT coalesce(wait_event_type, '') NOT IN ('Client', 'Activity') \
                     FROM pg_stat_activity WHERE pid = $1::int";
                other.all_rows(SQL, &[Some(&pid.to_string())]).await
            };
            match within(&*world, LOOK, asking).await {
                Some(Ok(rows)) => rows.into_iter().flatten().flatten().next().as_deref() == Some("t"),
                // It lives but does not say (too many clients, about to stop): it is asked again.
                Some(Err(WireError::Server(_))) => true,
                Some(Err(_)) | None => false,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::tests::{connect, frame, logged_in, ready};
    use super::*;
    use crate::postgres::tuple::tests::data_row;
    use crate::world::{Moment, RealWorld, SharedWorld, Task, World};

    /// Time that runs 30 times as fast: half a second of silence.
    struct Fast(SharedWorld);

    impl World for Fast {
        fn now(&self) -> Moment {
            self.0.now() * 30
        }

        fn unix_seconds(&self) -> u64 {
            self.0.unix_seconds()
        }

        fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
            self.0.sleep(time / 30)
        }

        fn spawn(&self, work: BoxFuture<'static, ()>) -> Task {
            self.0.spawn(work)
        }

        fn random(&self) -> u64 {
            self.0.random()
        }
    }

    /// A server that is silent to the first connection's question until it was asked `looks` times
    /// elsewhere, and says there what `says` is; `None`: nothing.
    async fn asked(says: Option<&'static [u8]>, looks: usize) -> Result<String, WireError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let row = |value: &[u8]| {
            [frame(b'D', &data_row(&[Some(value)])), frame(b'C', b"SELECT 1\0"), ready()].concat()
        };
        let server = async move {
            let mut heard = [0; 4096];
            let (mut first, _) = listener.accept().await.unwrap();
            assert!(first.read(&mut heard).await.unwrap() > 8);
            first.write_all(&logged_in()).await.unwrap();
            let mut others = Vec::new();
            for _ in 0..looks {
                let (mut other, _) = listener.accept().await.unwrap();
                assert!(other.read(&mut heard).await.unwrap() > 8);
                if let Some(says) = says {
                    other.write_all(&logged_in()).await.unwrap();
                    assert!(other.read(&mut heard).await.unwrap() > 8);
                    other.write_all(&row(says)).await.unwrap();
                }
                others.push(other);
            }
            if says == Some(b"t") {
                first.write_all(&row(b"at last")).await.unwrap();
            }
            std::future::pending::<()>().await
        };
        let world: SharedWorld = Arc::new(Fast(RealWorld::shared()));
        let client = async {
            let mut connection = Connection::open(&connect(port), &world, Duration::from_secs(60)).await?;
            let rows = connection.simple("SELECT pg_sleep(60)").await?;
            Ok(rows[0][0].clone().unwrap())
        };
        tokio::select! {
            () = server => panic!("it does not end"),
            said = client => said,
        }
    }

    #[tokio::test]
    async fn an_answer_that_takes_long_is_waited_for_while_the_server_is_at_work() {
        assert_eq!(asked(Some(b"t"), 2).await.unwrap(), "at last");
    }

    #[tokio::test]
    async fn a_connection_without_an_answer_is_lost_when_nobody_works_on_one() {
        for says in [Some(&b"f"[..]), None] {
            let lost = tokio::time::timeout(Duration::from_secs(20), asked(says, 1));
            let error = lost.await.expect("it is given up").unwrap_err();
            assert!(matches!(error, WireError::Silent { .. }), "{error}");
        }
    }
}
