//! `rowtide dead-letters retry`, while nothing runs: the store's lock, then for each target its lease, its indices,
//! and the letters through lanes.

use std::sync::Arc;
use std::time::Duration;

use sources::budget::Budget;
use sources::world::within;

use super::{Exit, Failed, Work, words};
use crate::cli::taking::{Taken, take};
use crate::config::{PipelineConfig, TargetSettings};
use crate::lanes::Settings;
use crate::lease::{Claim, Lease};
use crate::resend::{Resend, Resent, Tell, Told};
use crate::retry::Halt;
use crate::store::{Choice, LetterLimits, Sqlite, Store, letters_of};
use crate::target::elasticsearch::Elasticsearch;
use crate::target::{Target, TargetError};

/// A server that has not answered by then is away.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Sends the chosen letters again, target by target.
pub(super) async fn retry(work: Work) -> Result<Exit, Failed> {
    let Some(store) = Sqlite::open_existing(&work.config.data_dir, &work.world)? else {
        println!("there are no such dead letters");
        return Ok(Exit::Clean);
    };
    let chosen = store.letters_sum(&work.choice).await?.count;
    let mut left = work.limit.unwrap_or(u64::MAX);
    let (mut all, mut asked) = (Resent::default(), 0);
    for pipeline in &work.config.pipelines {
        if let Some(first) = pipeline.targets.first() {
            store.name_letters(&pipeline.settings.name, &first.name).await?;
        }
        let named =
            |target: &&TargetSettings| work.choice.target.as_ref().is_none_or(|name| *name == target.name);
        for target in pipeline.targets.iter().filter(named) {
            let (of, name) = (Some(pipeline.settings.name.clone()), Some(target.name.clone()));
            let choice = Choice { pipeline: of, target: name, ..work.choice.clone() };
            let count = store.letters_sum(&choice).await?.count.min(left);
            if count == 0 {
                continue;
            }
            asked += count;
            left -= count;
            let resent = send(&work, pipeline, &store, target, choice, count).await?;
            all.ends.add(&resent.ends);
            all.unsent += resent.unsent;
            all.away = all.away.or(resent.away.map(|why| format!("target {}: {why}", target.name)));
        }
    }
    let strangers = chosen.min(work.limit.unwrap_or(u64::MAX)).saturating_sub(asked);
    Ok(report(&work, asked, strangers, &all))
}

/// Sends those of one target.
async fn send(
    work: &Work,
    pipeline: &PipelineConfig,
    store: &Sqlite,
    writes: &TargetSettings,
    choice: Choice,
    limit: u64,
) -> Result<Resent, Failed> {
    let name = &writes.name;
    let target = Elasticsearch::new(writes.client_settings(), work.world.clone());
    let target: Arc<dyn Target> = Arc::new(target.map_err(|error| refused(name, error))?);
    judge_indices(work, &pipeline.settings.name, store, name, &*target, &choice).await?;
    let lease = Arc::new(hold(work, &pipeline.settings.name, store, name, target.clone()).await?);
    let budget = Budget::new(pipeline.budget_bytes);
    // One that is refused again takes the place of itself, so the disk is no bound here.
    let limits = LetterLimits { disk_bytes: u64::MAX, ..LetterLimits::of_each(1, u64::MAX, &budget) };
    let owner = letters_of(&pipeline.settings.name, name);
    let letters = store.letters(&owner, limits, &budget).await.map_err(Halt::from)?;
    let lanes = Settings {
        lanes: writes.lanes,
        bulk_bytes_max: writes.bulk_bytes_max,
        bulk_count_max: writes.bulk_count_max,
        linger: writes.linger,
        ..Settings::new(format!("{:016x}", work.world.random()), Arc::default())
    };
    let (world, store, tell) = (work.world.clone(), store.clone(), tell(work.json));
    let resend = Resend { world, store, letters, choice, limit, target, lease, lanes, budget, tell };
    Ok(resend.run().await?)
}

/// Letters belong to the indices that the checkpoint speaks of: another one is not written to.
async fn judge_indices(
    work: &Work,
    pipeline: &str,
    store: &Sqlite,
    name: &str,
    target: &dyn Target,
    choice: &Choice,
) -> Result<(), Failed> {
    let known = store.load(pipeline).await?.indices.unwrap_or_default();
    for alias in store.letters_indices(choice).await? {
        let index = ask(work, target.index(&alias)).await.map_err(|error| refused(name, error))?;
        let kept = known.get(&format!("{name}/{alias}")).or_else(|| known.get(&alias));
        let what = match &index {
            None => format!("the alias {alias} is gone from the target {name}"),
            Some(index) if index.pipeline.as_deref() != Some(pipeline) => {
                format!("the index {} behind {alias} was not made by this pipeline", index.name)
            }
            Some(index) if kept.is_some_and(|kept| *kept != index.uuid) => {
                format!("the index {} behind {alias} is not the one that the letters were for", index.name)
            }
            Some(_) => continue,
        };
        let hint =
            "rowtide run says how to go on; a new index is filled with all rows, and ends these letters";
        return Err(Failed::Halt(Halt { state: "index-replaced", what, hint: hint.to_owned() }));
    }
    Ok(())
}

/// The pipeline's lease: nothing is written beside another live process.
async fn hold(
    work: &Work,
    pipeline: &str,
    store: &Sqlite,
    name: &str,
    target: Arc<dyn Target>,
) -> Result<Lease, Failed> {
    let id = pipeline.to_owned();
    if ask(work, target.load_state(&id)).await.map_err(|error| refused(name, error))?.is_none() {
        let what = format!("the document {id} in rowtide-state is gone from the target {name}");
        let hint = "nobody knows any more which versions its indices hold: fill them anew".to_owned();
        return Err(Failed::Halt(Halt { state: "state-gone", what, hint }));
    }
    let claim = Claim { id: id.clone(), store: store.owner().to_owned(), store_is_locked: true };
    let words = (format!("the lease of {id} on {name}"), format!("target {name}: "));
    match take(target, &work.world, claim, (&words.0, &words.1)).await {
        Taken::Ours(lease, _) => {
            if !lease.found_clean() {
                eprintln!(
                    "waiting 10 s: the last process did not end in order, and may have requests under way"
                );
            }
            Ok(lease)
        }
        Taken::Refused(error) => Err(Failed::Halt(error.into())),
        Taken::Alive(what) => {
            let hint = "stop that process first, or look at the target".to_owned();
            Err(Failed::Halt(Halt { state: "lease-alive", what, hint }))
        }
    }
}

async fn ask<T>(
    work: &Work,
    question: impl Future<Output = Result<T, TargetError>>,
) -> Result<T, TargetError> {
    within(&*work.world, ANSWER_WITHIN, question).await.unwrap_or_else(|| {
        let reason = format!("no answer within {} s", ANSWER_WITHIN.as_secs());
        Err(TargetError::TimedOut { context: "ask the target", reason })
    })
}

fn refused(name: &str, error: TargetError) -> Failed {
    let what = format!("target {name}: {error}");
    let hint = match error {
        TargetError::Halt { hint, .. } => hint,
        _ => "start the cluster, or correct nodes".to_owned(),
    };
    Failed::Halt(Halt { state: "target-refuses", what, hint })
}

/// Says of each letter that stays why.
fn tell(json: bool) -> Tell {
    Arc::new(move |told| {
        let (index, id, what, fix) = match told {
            Told::Unsent(letter, unfit) => {
                let (what, fix) = unfit.words();
                (letter.index.clone(), words::id(letter), what.to_owned(), Some(fix))
            }
            Told::Refused(letter) => {
                let id = String::from_utf8_lossy(&letter.id).into_owned();
                (letter.index.to_string(), id, letter.reason.clone(), None)
            }
        };
        if json {
            let is_sent = fix.is_none();
            println!(
                "{}",
                serde_json::json!({ "index": index, "id": id, "sent": is_sent, "reason": what, "fix": fix })
            );
            return;
        }
        let word = if fix.is_some() { "cannot be sent" } else { "refused again" };
        println!("{word}: {index} {}: {}", words::plain(&id), words::plain(&what));
        if let Some(fix) = fix {
            println!("    fix: {fix}");
        }
    })
}

fn report(work: &Work, asked: u64, strangers: u64, all: &Resent) -> Exit {
    let Resent { ends, unsent, away } = all;
    let left = asked.saturating_sub(ends.written + ends.stale);
    if work.json {
        let counts = serde_json::json!({
            "written": ends.written, "stale": ends.stale, "refused": ends.dead_lettered, "unsent": unsent,
            "left": left + strangers,
        });
        println!("{counts}");
    } else {
        println!(
            "{}: {} written, {} older than what the index holds, {} refused again, {unsent} cannot be sent",
            words::letters(asked),
            ends.written,
            ends.stale,
            ends.dead_lettered,
        );
    }
    if strangers > 0 {
        eprintln!("{} of targets that this configuration does not name stay", words::letters(strangers));
    }
    if let Some(why) = away {
        eprintln!("not done: {why}; run it again when it is back");
        return Exit::Failed;
    }
    if left + strangers > 0 { Exit::Halted } else { Exit::Clean }
}
