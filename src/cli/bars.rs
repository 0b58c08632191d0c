//! The status on a terminal: a bar for each table while it is being read, then one line.

use std::io::{self, Write};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

use super::words;
use crate::status::{State, Status};

/// Everything that is drawn.
pub(super) struct Bars {
    all: MultiProgress,
    pipelines: Vec<Pipeline>,
}

/// What is drawn of one pipeline.
struct Pipeline {
    tables: Vec<ProgressBar>,
    line: ProgressBar,
}

impl Bars {
    pub(super) fn new() -> Self {
        Self::on(ProgressDrawTarget::stderr())
    }

    fn on(target: ProgressDrawTarget) -> Self {
        let all = MultiProgress::with_draw_target(target);
        Self { all, pipelines: Vec::new() }
    }

    /// Where log lines go, so that they appear above the bars.
    pub(super) fn writer(&self) -> AboveBars {
        AboveBars(self.all.clone())
    }

    /// Draws the status of the pipeline at this place, with its `name` if there are several, in a process of
    /// which `rss` bytes are resident and `max_rss` may be.
    pub(super) fn show(
        &mut self,
        number: usize,
        name: Option<&str>,
        status: &Status,
        rss: usize,
        max_rss: usize,
    ) {
        while self.pipelines.len() <= number {
            let line = ProgressBar::new_spinner().with_style(style("{msg}"));
            self.pipelines.push(Pipeline { tables: Vec::new(), line: self.all.add(line) });
        }
        let prefix = name.map_or(String::new(), |name| format!("{name}: "));
        let Pipeline { tables, line: last } = &mut self.pipelines[number];
        // A pipeline that was started again reads what is left, perhaps of other tables.
        if status.source.tables.len() < tables.len() {
            tables.drain(..).for_each(|bar| bar.finish_and_clear());
        }
        let names: Vec<String> =
            status.source.tables.iter().map(|table| format!("{prefix}{}", table.name)).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        while tables.len() < names.len() {
            let name = &names[tables.len()];
            let bar = ProgressBar::new(0).with_prefix(format!("{name:width$}"));
            let bar = bar.with_style(style(TABLE).progress_chars("=> "));
            tables.push(self.all.insert_before(last, bar));
        }
        for (bar, table) in tables.iter().zip(&status.source.tables) {
            if bar.is_finished() {
                continue;
            }
            // The estimate is the database's own and may be too low, or unknown.
            bar.set_length(table.rows_estimated.max(table.rows_read));
            bar.set_position(table.rows_read);
            if table.done {
                bar.set_length(table.rows_read);
                bar.finish();
            }
        }
        // Once everything is read, one line is left.
        if status.state == State::Following {
            tables.iter().for_each(ProgressBar::finish_and_clear);
        }
        last.set_message(prefix + &line(status, rss, max_rss));
        last.tick();
    }

    /// Leaves the last lines standing.
    pub(super) fn end(&self) {
        for Pipeline { tables, line } in &self.pipelines {
            tables.iter().for_each(|bar| bar.abandon());
            line.abandon();
        }
    }
}

const TABLE: &str = "{prefix} [{bar:30}] {human_pos:>11} of {human_len} rows, {rate}/s, {eta} left";

fn style(template: &str) -> ProgressStyle {
    // The templates are constants; should one be wrong, there is a bar in the default style.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.with_key("rate", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _a_bar_cannot_fail = out.write_str(&words::count(state.per_sec().round() as u64));
    })
}

/// The status in one line.
fn line(status: &Status, rss: usize, max_rss: usize) -> String {
    let mut parts = vec![match &status.reason {
        Some(reason) => format!("{}: {reason}", status.state.name()),
        None => status.state.name().to_owned(),
    }];
    if let Some(lag) = status.lag {
        parts.push(format!("lag {} ({})", words::time(lag), words::bytes(status.source.log_behind_bytes)));
    }
    parts.push(format!("{}/s", words::count(status.docs_per_s.round() as u64)));
    parts.push(format!("{} written", words::count(status.counts.ends.written)));
    let dead_lettered = status.counts.ends.dead_lettered;
    if dead_lettered > 0 {
        parts.push(format!("{} dead letters", words::count(dead_lettered)));
    }
    parts.push(format!("memory {} of {}", words::bytes(rss as u64), words::bytes(max_rss as u64)));
    if let Some(left) = status.source.log_held_time_left {
        let held = words::bytes(status.source.log_held_bytes);
        parts.push(format!("server keeps {held} of log, {} left", words::time(left)));
    }
    parts.join(" | ")
}

/// Writes log lines above the bars.
pub(super) struct AboveBars(MultiProgress);

impl<'a> MakeWriter<'a> for AboveBars {
    type Writer = AboveBars;

    fn make_writer(&'a self) -> AboveBars {
        AboveBars(self.0.clone())
    }
}

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use indicatif::InMemoryTerm;
    use sources::source::TableProgress;

    use super::*;

    fn table(name: &str, rows_read: u64, done: bool) -> TableProgress {
        TableProgress { name: name.to_owned(), rows_estimated: 64_000, rows_read, done }
    }

    fn status(state: State) -> Status {
        let mut status = Status { state, docs_per_s: 1_234.4, ..Status::default() };
        status.source.tables =
            vec![table("public.products", 32_000, false), table("public.users", 70_000, false)];
        status
    }

    fn bars() -> (Bars, InMemoryTerm) {
        let screen = InMemoryTerm::new(10, 140);
        (Bars::on(ProgressDrawTarget::term_like(Box::new(screen.clone()))), screen)
    }

    #[test]
    fn a_fill_shows_a_bar_for_each_table_and_following_shows_one_line() {
        let (mut bars, screen) = bars();
        bars.show(0, None, &status(State::Backfilling), 90 << 20, 256 << 20);
        bars.show(0, None, &status(State::Backfilling), 90 << 20, 256 << 20);
        let shown = screen.contents();
        assert!(shown.contains("public.products [===============>"), "{shown}");
        assert!(shown.contains("32,000 of 64,000 rows, "), "{shown}");
        let rate = shown.split("rows, ").nth(1).and_then(|rest| rest.split("/s").next());
        assert!(rate.is_some_and(|rate| !rate.contains('.')), "whole rows a second: {shown}");
        assert!(shown.contains("public.users    [=============================="), "{shown}");
        assert!(shown.contains("70,000 of 70,000 rows"), "a low estimate is corrected: {shown}");
        assert!(shown.contains("backfilling | 1,234/s | 0 written | memory 90 MiB of 256 MiB"), "{shown}");

        let mut following = status(State::Following);
        following.lag = Some(Duration::from_millis(40));
        following.source.log_behind_bytes = 2048;
        bars.show(0, None, &following, 90 << 20, 256 << 20);
        assert_eq!(
            screen.contents(),
            "following | lag 40 ms (2.0 KiB) | 1,234/s | 0 written | memory 90 MiB of 256 MiB"
        );
    }

    #[test]
    fn several_pipelines_have_their_bars_and_lines_by_their_names() {
        let (mut bars, screen) = bars();
        for number in [0, 1, 0, 1] {
            let mut status = status(State::Backfilling);
            status.source.tables.truncate(2 - number);
            bars.show(number, Some(["shop", "crm"][number]), &status, 90 << 20, 256 << 20);
        }
        let shown = screen.contents();
        let starts: Vec<&str> = shown.lines().map(|line| line.split_at(20).0).collect();
        assert_eq!(
            starts,
            [
                "shop: public.product",
                "shop: public.users  ",
                "shop: backfilling | ",
                "crm: public.products",
                "crm: backfilling | 1"
            ],
            "{shown}"
        );
        // One halts: the other's bars stay.
        let mut halted = status(State::Halted);
        halted.source.tables.clear();
        halted.reason = Some("alias-gone: it is gone".to_owned());
        bars.show(0, Some("shop"), &halted, 90 << 20, 256 << 20);
        let shown = screen.contents();
        assert!(shown.starts_with("shop: halted: alias-gone: it is gone | "), "{shown}");
        assert!(shown.contains("\ncrm: public.products ["), "{shown}");
    }

    #[test]
    fn what_is_waited_for_is_said() {
        let (mut bars, screen) = bars();
        let mut waiting = status(State::Waiting);
        waiting.reason = Some("the server at 127.0.0.1:5432".to_owned());
        waiting.source.tables.clear();
        bars.show(0, None, &waiting, 90 << 20, 256 << 20);
        assert!(
            screen.contents().starts_with("waiting: the server at 127.0.0.1:5432 | "),
            "{}",
            screen.contents()
        );
    }
}
