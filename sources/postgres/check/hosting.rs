//! Who runs the server, since a managed one is set up in its provider's own words.
//!
//! Expected from the providers' documents, not tested on their servers: the judgement is.

use crate::postgres::catalog::quoted;

/// Who runs the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hosting {
    /// Somebody who may change its settings.
    Own,
    /// Amazon RDS and Aurora.
    Rds,
    /// Google Cloud SQL.
    CloudSql,
    /// Azure Database for PostgreSQL, flexible server.
    Azure,
}

/// The settings that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    /// The log holds rows.
    WalLevel,
    /// `max_wal_senders`, to this.
    Senders(u64),
    /// `max_replication_slots`, to this.
    Slots(u64),
    /// `max_slot_wal_keep_size`.
    KeepSize,
}

impl Hosting {
    /// By the names of settings and roles that only they have.
    pub(super) const ASK: &str = "\
        SELECT s.name FROM pg_settings s WHERE s.name ~ '^(rds|cloudsql|azure)[.]'
         UNION ALL
        SELECT r.rolname FROM pg_roles r
         WHERE r.rolname IN ('rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin')";

    /// What the names say.
    pub(super) fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        for name in names {
            match name {
                _ if name.starts_with("rds.") || name == "rds_superuser" => return Self::Rds,
                _ if name.starts_with("cloudsql.") || name == "cloudsqlsuperuser" => return Self::CloudSql,
                _ if name.starts_with("azure.") || name == "azure_pg_admin" => return Self::Azure,
                _ => {}
            }
        }
        Self::Own
    }

    /// How a setting is changed there.
    pub(super) fn set(self, setting: Setting) -> String {
        let restart = setting != Setting::KeepSize;
        let (name, value) = match setting {
            Setting::WalLevel => ("wal_level", "logical".to_owned()),
            Setting::Senders(number) => ("max_wal_senders", number.to_string()),
            Setting::Slots(number) => ("max_replication_slots", number.to_string()),
            Setting::KeepSize => ("max_slot_wal_keep_size", "51200".to_owned()),
        };
        match (self, setting) {
            (Self::Own, Setting::KeepSize) => {
                "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB';\nSELECT pg_reload_conf();".to_owned()
            }
            (Self::Own, _) => format!("ALTER SYSTEM SET {name} = {value}; -- and restart the server"),
            (Self::Rds, Setting::WalLevel) => {
                "set rds.logical_replication = 1 in the instance's parameter group (Aurora: the cluster's), \
                 and reboot"
                    .to_owned()
            }
            (Self::Rds, _) => {
                format!("set {name} = {value} in the instance's parameter group{}", and(restart, "reboot"))
            }
            (Self::CloudSql, Setting::WalLevel) => {
                "set the flag cloudsql.logical_decoding = on; the instance restarts".to_owned()
            }
            (Self::CloudSql, _) => {
                format!(
                    "set the flag {name} = {value}{}",
                    if restart { "; the instance restarts" } else { "" }
                )
            }
            (Self::Azure, _) => {
                format!("set the server parameter {name} to {value}{}", and(restart, "restart the server"))
            }
        }
    }

    /// The SQL that lets a role replicate.
    pub(super) fn grant_replication(self, role: &str) -> String {
        let role = quoted(role);
        match self {
            Self::Own => format!("ALTER ROLE {role} REPLICATION;"),
            Self::Rds => format!("GRANT rds_replication TO {role};"),
            Self::CloudSql | Self::Azure => format!("ALTER ROLE {role} WITH REPLICATION;"),
        }
    }
}

fn and(there: bool, what: &str) -> String {
    if there { format!(", and {what}") } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_managed_server_is_known_by_what_only_it_has() {
        assert_eq!(Hosting::of([]), Hosting::Own);
        assert_eq!(Hosting::of(["rdsx", "azureish.a", "cloudsql"]), Hosting::Own);
        for (name, hosting) in [
            ("rds.logical_replication", Hosting::Rds),
            ("rds_superuser", Hosting::Rds),
            ("cloudsql.logical_decoding", Hosting::CloudSql),
            ("cloudsqlsuperuser", Hosting::CloudSql),
            ("azure.extensions", Hosting::Azure),
            ("azure_pg_admin", Hosting::Azure),
        ] {
            assert_eq!(Hosting::of(["other", name]), hosting, "{name}");
        }
    }

    #[test]
    fn each_provider_is_told_in_its_own_words_and_never_to_alter_the_system() {
        let settings = [Setting::WalLevel, Setting::Senders(14), Setting::Slots(12), Setting::KeepSize];
        for hosting in [Hosting::Rds, Hosting::CloudSql, Hosting::Azure] {
            for setting in settings {
                assert!(!hosting.set(setting).contains("ALTER SYSTEM"), "{hosting:?} {setting:?}");
            }
            assert!(hosting.set(Setting::Slots(12)).contains("max_replication_slots"));
            assert!(hosting.set(Setting::Slots(12)).contains("12"));
        }
        assert!(Hosting::Rds.set(Setting::WalLevel).contains("rds.logical_replication = 1"));
        assert!(Hosting::CloudSql.set(Setting::WalLevel).contains("cloudsql.logical_decoding = on"));
        assert!(Hosting::Azure.set(Setting::WalLevel).contains("wal_level to logical"));
        assert!(!Hosting::Rds.set(Setting::KeepSize).contains("reboot"));
        assert!(Hosting::Own.set(Setting::WalLevel).starts_with("ALTER SYSTEM SET wal_level = logical;"));
    }

    #[test]
    fn each_provider_grants_replication_in_its_own_way() {
        assert_eq!(Hosting::Own.grant_replication("c\"d"), "ALTER ROLE \"c\"\"d\" REPLICATION;");
        assert_eq!(Hosting::Rds.grant_replication("cdc"), "GRANT rds_replication TO \"cdc\";");
        for hosting in [Hosting::CloudSql, Hosting::Azure] {
            assert_eq!(hosting.grant_replication("cdc"), "ALTER ROLE \"cdc\" WITH REPLICATION;");
        }
    }
}
