//! The server's settings and the role: asked in one place, judged in another, so that the judgement of
//! servers that nobody has here can be tested.

use super::Findings;
use super::hosting::{Hosting, Setting};
use crate::postgres::wire::{Connection, WireError};

/// Rowtide is tested on PostgreSQL 15, 17 and 18. 14 is the first one with all that is asked for:
/// `two_phase` of a slot can be seen, and a publication can be told to publish the root of partitions.
const OLDEST_VERSION: u32 = 140_000;

/// How much higher a limit is proposed to be than what is in use.
const ROOM: u64 = 4;

/// What the server says.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    pub(super) hosting: Hosting,
    version_number: u32,
    version: String,
    pub(super) in_recovery: bool,
    wal_level: String,
    senders_most: u64,
    senders: u64,
    pub(super) slots_most: u64,
    pub(super) slots: u64,
    /// Megabytes; `-1` without a bound.
    keep_size: String,
    may_replicate: bool,
}

/// Asks.
pub(super) async fn ask(sql: &mut Connection) -> Result<Answers, WireError> {
    // Hosted servers grant replication by membership in a role of their own.
    const ASK: &str = "\
        SELECT current_setting('server_version_num'), current_setting('server_version'),
               pg_is_in_recovery(), current_setting('wal_level'),
               current_setting('max_wal_senders'), (SELECT count(*) FROM pg_stat_replication),
               current_setting('max_replication_slots'), (SELECT count(*) FROM pg_replication_slots),
               current_setting('max_slot_wal_keep_size'),
               (SELECT r.rolreplication OR r.rolsuper OR EXISTS (
                         SELECT FROM pg_roles g WHERE g.rolname IN ('rds_replication', 'cloudsqlreplica')
                            AND pg_has_role(r.oid, g.oid, 'MEMBER'))
                  FROM pg_roles r WHERE r.rolname = current_user)";
    let names = sql.all_rows(Hosting::ASK, &[]).await?;
    let hosting = Hosting::of(names.iter().flatten().filter_map(Option::as_deref));
    let row = sql.all_rows(ASK, &[]).await?.into_iter().next();
    row.and_then(|row| read(hosting, row))
        .ok_or(WireError::Protocol("the settings gave a row of an unexpected form"))
}

fn read(hosting: Hosting, row: Vec<Option<String>>) -> Option<Answers> {
    let row: Option<Vec<String>> = row.into_iter().collect();
    let [number, version, recovery, wal_level, senders_most, senders, slots_most, slots, keep_size, may] =
        <[_; 10]>::try_from(row?).ok()?;
    Some(Answers {
        hosting,
        version_number: number.parse().ok()?,
        version,
        in_recovery: recovery == "t",
        wal_level,
        senders_most: senders_most.parse().ok()?,
        senders: senders.parse().ok()?,
        slots_most: slots_most.parse().ok()?,
        slots: slots.parse().ok()?,
        keep_size,
        may_replicate: may == "t",
    })
}

/// What follows from it.
pub(super) fn judge(server: &Answers, role: &str) -> Findings {
    let mut findings = Findings::default();
    let hosting = server.hosting;
    if server.version_number < OLDEST_VERSION {
        findings.add(format!("PostgreSQL {} is too old", server.version), "upgrade it to 14 or later");
    }
    if server.in_recovery {
        findings.add(
            "the server is a standby: what its snapshots see cannot be told there",
            "put the primary's address into the url",
        );
    }
    if server.wal_level != "logical" {
        findings.add(
            format!("wal_level is {}, where the log must hold rows", server.wal_level),
            hosting.set(Setting::WalLevel),
        );
    }
    if server.senders >= server.senders_most {
        findings.add(
            format!(
                "no walsender is left: {} of {} (max_wal_senders) are in use",
                server.senders, server.senders_most
            ),
            hosting.set(Setting::Senders(server.senders + ROOM)),
        );
    }
    if !server.may_replicate {
        findings.add(format!("role {role} may not replicate"), hosting.grant_replication(role));
    }
    if server.keep_size == "-1" {
        findings.advise(
            "max_slot_wal_keep_size is unlimited: while Rowtide is stopped, the log that its slot keeps \
             can fill the server's disk",
            hosting.set(Setting::KeepSize),
        );
    }
    findings
}

/// No place is left for a slot that is still to be made.
pub(super) fn judge_room(server: &Answers, findings: &mut Findings) {
    if server.slots < server.slots_most {
        return;
    }
    findings.add(
        format!(
            "no replication slot is left: {} of {} (max_replication_slots) are in use",
            server.slots, server.slots_most
        ),
        server.hosting.set(Setting::Slots(server.slots + ROOM)),
    );
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn answers(hosting: Hosting, change: impl FnOnce(&mut [&str; 10])) -> Answers {
        let mut row = ["180000", "18.0", "f", "logical", "10", "9", "10", "9", "50GB", "t"];
        change(&mut row);
        read(hosting, row.iter().map(|text| Some((*text).to_owned())).collect()).unwrap()
    }

    fn missing(answers: &Answers) -> Vec<String> {
        let mut findings = judge(answers, "cdc");
        judge_room(answers, &mut findings);
        findings.missing.into_iter().map(|finding| format!("{}: {}", finding.what, finding.fix)).collect()
    }

    #[test]
    fn a_server_with_the_last_place_left_lacks_nothing() {
        let fine = answers(Hosting::Own, |_| {});
        assert_eq!(missing(&fine), Vec::<String>::new());
        assert!(judge(&fine, "cdc").advised.is_empty());
    }

    #[test]
    fn each_setting_is_judged_alone_and_all_are_told() {
        let all = |row: &mut [&str; 10]| {
            *row = ["130009", "13.9", "t", "replica", "10", "10", "10", "10", "-1", "f"];
        };
        let found = missing(&answers(Hosting::Own, all));
        for (part, found) in [
            "13.9",
            "standby",
            "wal_level is replica",
            "no walsender",
            "may not replicate",
            "no replication slot",
        ]
        .iter()
        .zip(&found)
        {
            assert!(found.contains(part), "{part}: {found}");
        }
        assert_eq!(found.len(), 6);
        assert!(found[3].ends_with("ALTER SYSTEM SET max_wal_senders = 14; -- and restart the server"));
        assert!(found[5].contains("ALTER SYSTEM SET max_replication_slots = 14;"));
        for place in 0..10 {
            let one = answers(Hosting::Own, |row| {
                let mut broken = *row;
                all(&mut broken);
                row[place] = broken[place];
            });
            // The version's name and the bound of the log are no faults.
            let faults = usize::from(!matches!(place, 1 | 4 | 6 | 8));
            assert_eq!(missing(&one).len(), faults, "{place}: {:?}", missing(&one));
        }
    }

    #[test]
    fn an_unlimited_log_is_an_advice_and_nothing_missing() {
        let unlimited = answers(Hosting::Rds, |row| row[8] = "-1");
        assert!(missing(&unlimited).is_empty());
        let advised = judge(&unlimited, "cdc").advised;
        assert_eq!(advised.len(), 1);
        assert!(advised[0].fix.contains("parameter group"), "{advised:?}");
    }

    #[test]
    fn a_managed_servers_faults_are_mended_in_its_own_words() {
        let broken = |hosting| {
            missing(&answers(hosting, |row| (row[3], row[5], row[9]) = ("replica", "10", "f"))).join("\n")
        };
        let rds = broken(Hosting::Rds);
        assert!(
            rds.contains("rds.logical_replication = 1") && rds.contains("GRANT rds_replication"),
            "{rds}"
        );
        let cloud_sql = broken(Hosting::CloudSql);
        assert!(cloud_sql.contains("cloudsql.logical_decoding = on"), "{cloud_sql}");
        let azure = broken(Hosting::Azure);
        assert!(
            azure.contains("server parameter wal_level") && azure.contains("WITH REPLICATION"),
            "{azure}"
        );
    }
}
