//! The start: lease, state document, shape, indices; nothing is written before all of it is in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sources::mutant::{Rule, is_left_out};
use sources::position::Epoch;
use tokio::sync::mpsc;

use super::barrier::Barrier;
use super::branch::{Branch, Passed, index_of, indices_of};
use super::decision::{Decision, decide};
use super::easing;
use super::insist::insist;
use super::intake::Intake;
use super::report::Rate;
use super::saver::Saver;
use super::watcher::{judge_odd, tell_odd, watch_indices, watch_lease};
use super::{FILL_ANEW, Parts, Pipeline, PipelineError, SharedTarget, SourceEnd, TargetParts, judge_source};
use crate::lanes::{Lanes, Settings as LaneSettings, Surroundings};
use crate::lease::{Claim, Lease, Waiting};
use crate::ledger::Ledger;
use crate::retry::{Halt, backoff};
use crate::shape::{Shape, resolve};
use crate::store::Saved;
use crate::target::{Easing, Extended, IndexSpec, Odd, StateDocument};

impl Pipeline {
    /// Everything that must be in order before the first write; `None` when it was told to stop.
    pub(super) async fn start(&mut self) -> Result<Option<Intake>, PipelineError> {
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            () = stop.told() => Ok(None),
            started = self.prepare() => started.map(Some),
        }
    }

    async fn prepare(&self) -> Result<Intake, PipelineError> {
        let Parts { settings, store, budget, .. } = &self.parts;
        let name = settings.name.clone();
        let saved = store.load(&name).await?;

        let shape = self.shape(&saved).await?;
        let claims = self.claim(&saved).await?;
        let prepared = self.all_indices(&shape, &saved, &claims).await;
        let uuids = match prepared {
            Ok(uuids) => uuids,
            Err(error) => {
                give_back(&claims).await;
                return Err(error);
            }
        };
        let by_target = self.parts.targets.iter().zip(&uuids);
        let named = by_target.flat_map(|(to, uuids)| {
            uuids.iter().map(|(alias, uuid)| (index_of(&to.writes.name, alias), uuid.clone()))
        });
        store.begin(&name, &named.collect()).await?;
        for (claim, uuids) in claims.iter().zip(&uuids) {
            claim.lease.update(|state| state.indices = uuids.clone()).await?;
        }

        let clean = saved.clean && claims.iter().all(|claim| claim.lease.found_clean());
        let ceilings = claims.iter().filter_map(|claim| Some(claim.before.as_ref()?.ceiling));
        let highest = ceilings.max().unwrap_or_default();
        let (tell, watched) = mpsc::unbounded_channel();
        let mut branches = Vec::with_capacity(claims.len());
        for (number, ((to, claim), uuids)) in self.parts.targets.iter().zip(claims).zip(uuids).enumerate() {
            let counts = self.before.as_ref().and_then(|before| before.get(number).copied());
            let ledger = Ledger::going_on(counts.unwrap_or_default());
            let mut branch = self.branch(to, claim, uuids, ledger, shape.indices(), &tell);
            let eased = easing::eased(&self.world, &to.target, &shape).await?;
            if !eased.is_empty() {
                let source = self.source_status.subscribe();
                let work = easing::restore_when_filled(self.world.clone(), to.target.clone(), eased, source);
                branch.watchers.push(self.world.spawn(Box::pin(work)));
            }
            branches.push(branch);
        }
        let saver = Saver::start(&self.world, store.clone(), name.clone());
        let barrier =
            Barrier::reserve(budget).await.map_err(|error| PipelineError::Failed(error.to_string()))?;
        Ok(Intake {
            world: self.world.clone(),
            pipeline: name,
            shape,
            branches,
            checkpoints: 0,
            highest,
            saver,
            barrier,
            epoch: Epoch { base: 0 },
            status: self.status.clone(),
            source_status: self.source_status.clone(),
            watched,
            clean,
            // A first start has nothing to distrust.
            is_trusted: clean || saved.position.is_none(),
            budget: budget.clone(),
            documents: Rate::default(),
            bytes: Rate::default(),
            controls: self.parts.controls.clone(),
            has_position: saved.position.is_some(),
        })
    }

    /// The lease of every target, or of none.
    async fn claim(&self, saved: &Saved) -> Result<Vec<Claimed>, PipelineError> {
        let mut claims = Vec::with_capacity(self.parts.targets.len());
        for TargetParts { target, .. } in &self.parts.targets {
            let waits = |waiting| match waiting {
                Waiting::ForOwner(owner) => {
                    self.wait_for(&format!("the lease of another process ({owner}) to end"))
                }
                Waiting::ForTarget(error) => self.wait_for(&error.to_string()),
            };
            // The store's lock says that an earlier process with this store's name is dead.
            let id = self.parts.settings.name.clone();
            let claim = Claim { id, store: saved.owner.clone(), store_is_locked: true };
            match Lease::acquire(target.clone(), self.world.clone(), claim, &waits).await {
                Ok((lease, before)) => {
                    let late = quarantine(lease.found_clean(), before.as_ref());
                    claims.push(Claimed { lease: Arc::new(lease), before, late });
                }
                Err(error) => {
                    give_back(&claims).await;
                    return Err(error.into());
                }
            }
        }
        Ok(claims)
    }

    /// Every index of every target is in order: UUIDs by alias, for each target.
    async fn all_indices(
        &self,
        shape: &Shape,
        saved: &Saved,
        claims: &[Claimed],
    ) -> Result<Vec<BTreeMap<String, String>>, PipelineError> {
        let mut all = Vec::with_capacity(claims.len());
        for (to, claim) in self.parts.targets.iter().zip(claims) {
            judge_target(&to.writes.name, saved)?;
            all.push(self.indices(to, shape, saved, claim).await?);
        }
        Ok(all)
    }

    /// What is under way to a target from here on.
    fn branch(
        &self,
        to: &TargetParts,
        claim: Claimed,
        uuids: BTreeMap<String, String>,
        ledger: Ledger,
        aliases: Arc<[Arc<str>]>,
        tell: &mpsc::UnboundedSender<Halt>,
    ) -> Branch {
        let TargetParts { writes, target, letters } = to;
        let Claimed { lease, late, .. } = claim;
        let settings = LaneSettings {
            lanes: writes.lanes,
            bulk_bytes_max: writes.bulk_bytes_max,
            bulk_count_max: writes.bulk_count_max,
            linger: writes.linger,
            start_quarantine: late,
            ..LaneSettings::new(format!("{:016x}", self.world.random()), aliases)
        };
        let permit = lease.clone();
        let surroundings = Surroundings {
            world: self.world.clone(),
            target: target.clone(),
            dead_letters: letters.clone(),
            permit: Arc::new(move |_| permit.is_valid()),
            controls: self.parts.controls.clone(),
        };
        let (lanes, events) = Lanes::start(settings, surroundings);
        let looks = watch_indices(self.world.clone(), target.clone(), uuids, tell.clone());
        let watchers = vec![
            self.world.spawn(Box::pin(looks)),
            self.world.spawn(Box::pin(watch_lease(lease.clone(), tell.clone()))),
        ];
        Branch {
            name: writes.name.clone(),
            target: target.clone(),
            lanes: Arc::new(lanes),
            events,
            ledger,
            lease,
            letters: letters.clone(),
            quarantine_ends: self.world.now() + late.unwrap_or_default(),
            watchers,
            passed: Passed::default(),
        }
    }

    /// The tables as they are now, and what becomes of them.
    async fn shape(&self, saved: &Saved) -> Result<Shape, PipelineError> {
        let mut tries = 0;
        let tables = loop {
            match self.parts.source.tables(saved.position.clone()).await.map_err(judge_source) {
                Ok(tables) => break tables,
                Err(SourceEnd::End(error)) => return Err(error),
                Err(SourceEnd::Again(why) | SourceEnd::Anew(why)) => {
                    self.wait_for(&why);
                    tries += 1;
                    self.world.sleep(backoff(tries, self.world.random())).await;
                }
            }
        };
        let compile = match self.before {
            None => Shape::compile,
            Some(_) => Shape::compile_again,
        };
        let resolved = resolve(&self.parts.settings.tables, &tables);
        let shape = resolved.and_then(|shapes| compile(&shapes, &tables)).map_err(|errors| {
            let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
            let hint = "mend [pipelines] in the configuration".to_owned();
            PipelineError::from(Halt { state: "shape-wrong", what: all.join("; "), hint })
        })?;
        let copies = self.parts.targets.len().max(1);
        let budget = self.parts.budget.full_limit();
        judge_growth(shape.growth(), self.parts.document_bytes_max, copies, budget)?;
        Ok(shape)
    }

    /// Every alias has an index of ours behind it. By alias, the UUIDs.
    async fn indices(
        &self,
        TargetParts { writes, target, .. }: &TargetParts,
        shape: &Shape,
        saved: &Saved,
        Claimed { lease, before, late }: &Claimed,
    ) -> Result<BTreeMap<String, String>, PipelineError> {
        let waits = |why: &str| self.wait_for(why);
        // A request that the last process left behind names the alias: it must not reach a new index.
        let mut late = late.filter(|_| !is_left_out(Rule::NewIndicesAwaitIt));
        // What the checkpoint speaks of; another process may have written other ones since.
        let kept = saved.indices.as_ref().filter(|_| !is_left_out(Rule::CheckpointsNameIndices));
        let kept = kept.map(|all| indices_of(all, &writes.name));
        let known = kept.as_ref().or(before.as_ref().map(|state| &state.indices));
        let mut uuids = BTreeMap::new();
        for spec in specs(shape, &self.parts.settings.name, writes.easing) {
            let found = insist(&self.world, &waits, || target.index(&spec.alias)).await?;
            let ours = known.and_then(|known| known.get(&spec.alias));
            if spec.shape_hash.is_empty() && ours.is_none() {
                // A table that is gone, or not there yet: its index is made when it comes.
                continue;
            }
            let decision = decide(&spec, found.as_ref(), ours, saved, before.is_some(), writes.existing)?;
            if !matches!(decision, Decision::Keep(_))
                && let Some(time) = late.take()
            {
                waits("the quarantine after an unclean stop, before an index is made");
                self.world.sleep(time).await;
            }
            if !matches!(decision, Decision::Keep(_)) {
                // A process that stood still meanwhile must not touch another one's index.
                lease.valid().await?;
            }
            let uuid = match decision {
                Decision::Keep(uuid) => {
                    accept(&spec, found.as_ref().map_or(&[], |found| &found.odd))?;
                    self.extend(target, &spec).await?;
                    uuid
                }
                Decision::Create => self.create(target, &spec).await?,
                Decision::Replace(name) => {
                    tracing::info!(index = name, "the index is replaced, as the configuration says");
                    insist(&self.world, &waits, || target.delete_index(&name)).await?;
                    self.create(target, &spec).await?
                }
            };
            uuids.insert(spec.alias.clone(), uuid);
        }
        Ok(uuids)
    }

    /// Columns that have come since the index was made are searched too (T09).
    async fn extend(&self, target: &SharedTarget, spec: &IndexSpec) -> Result<(), PipelineError> {
        if spec.fields.is_empty() {
            return Ok(());
        }
        let waits = |why: &str| self.wait_for(why);
        let Extended { added, unfit, told } =
            insist(&self.world, &waits, || target.extend_mapping(spec)).await?;
        if !added.is_empty() {
            tracing::info!(alias = spec.alias, fields = added.join(", "), "fields were added to the mapping");
        }
        for what in told {
            tracing::warn!(alias = spec.alias, what, "the index is not as it is configured");
        }
        for (field, mapped) in unfit {
            tracing::warn!(
                alias = spec.alias,
                field,
                mapped,
                "a field's mapping does not hold its column any more: documents that the index refuses become dead letters until a new index is filled"
            );
        }
        Ok(())
    }

    async fn create(&self, target: &SharedTarget, spec: &IndexSpec) -> Result<String, PipelineError> {
        let waits = |why: &str| self.wait_for(why);
        let made = insist(&self.world, &waits, || target.create_index(spec)).await?;
        tracing::info!(index = made.name, alias = spec.alias, "an index was made");
        accept(spec, &made.odd)?;
        Ok(made.uuid)
    }
}

/// A document may be larger than its row: the largest must still leave room for what is beside it, as a
/// largest row must.
fn judge_growth(growth: usize, document: usize, copies: usize, budget: usize) -> Result<(), Halt> {
    let largest = document.saturating_mul(copies).saturating_mul(growth);
    if growth == 1 || largest <= budget / 4 {
        return Ok(());
    }
    Err(Halt {
        state: "shape-wrong",
        what: format!(
            "template, flatten, lower and cast make documents of up to {growth} times their row, and a row may have \
             {document} bytes: with a copy for each target that is more than a quarter of the budget, {} bytes",
            budget / 4
        ),
        hint: "lower memory.document_bytes_max, raise memory.max_rss, or use fewer columns twice".to_owned(),
    })
}

/// A target whose lease is ours.
struct Claimed {
    lease: Arc<Lease>,
    /// The state document as it was found.
    before: Option<StateDocument>,
    /// How long nothing may be sent.
    late: Option<Duration>,
}

/// Nothing was sent: what was clean stays clean, and the next start need not wait.
async fn give_back(claims: &[Claimed]) {
    for Claimed { lease, .. } in claims.iter().filter(|claim| claim.lease.found_clean()) {
        if let Err(lost) = lease.release(None).await {
            tracing::warn!(error = %lost, "the lease was not given back");
        }
    }
}

/// A checkpoint says nothing of a target that was not there: its indices lack all that lies before.
fn judge_target(name: &str, saved: &Saved) -> Result<(), Halt> {
    let Some(all) = saved.indices.as_ref().filter(|all| saved.position.is_some() && !all.is_empty()) else {
        return Ok(());
    };
    if !indices_of(all, name).is_empty() {
        return Ok(());
    }
    let mut others: Vec<&str> = all.keys().filter_map(|key| Some(key.split_once('/')?.0)).collect();
    others.dedup();
    Err(Halt {
        state: "target-new",
        what: format!(
            "the checkpoint in data_dir says nothing of the target {name}: it is about {}",
            others.join(", ")
        ),
        hint: format!("if it is one of them, give it its former name; else {FILL_ANEW}"),
    })
}

/// Goes on with what is odd about an index where that can be; the pipeline that is configured is not odd.
fn accept(spec: &IndexSpec, odd: &[Odd]) -> Result<(), Halt> {
    if let Some(halt) = judge_odd(&spec.alias, odd) {
        return Err(halt);
    }
    let configured = |odd: &&Odd| match odd {
        Odd::Pipeline { pipeline, .. } => Some(pipeline) == spec.setup.ingest_pipeline.as_ref(),
        _ => false,
    };
    tell_odd(&spec.alias, odd.iter().filter(|odd| !configured(odd)));
    Ok(())
}

/// The index of each table.
fn specs(shape: &Shape, pipeline: &str, easing: Easing) -> Vec<IndexSpec> {
    let spec = |(number, alias): (usize, &Arc<str>)| IndexSpec {
        alias: alias.to_string(),
        pipeline: pipeline.to_owned(),
        fields: shape.fields(number),
        shape_hash: shape.shape_hash(number),
        setup: shape.setup(number),
        easing,
    };
    shape.indices().iter().enumerate().map(spec).collect()
}

/// After an unclean end, requests of the last process may still be executed (law 3); one that gave
/// its lease back had all of them answered. A first start has nothing before it.
fn quarantine(given_back: bool, before: Option<&StateDocument>) -> Option<Duration> {
    const QUARANTINE: Duration = Duration::from_secs(10);
    (before.is_some() && !given_back && !is_left_out(Rule::StartIsQuarantined)).then_some(QUARANTINE)
}

#[cfg(test)]
mod tests {
    use super::judge_growth;

    #[test]
    fn documents_that_outgrow_their_rows_must_fit_beside_others() {
        const MIB: usize = 1 << 20;
        assert!(judge_growth(3, 8 * MIB, 1, 96 * MIB).is_ok());
        assert!(judge_growth(3, 8 * MIB, 2, 96 * MIB).is_err_and(|halt| halt.state == "shape-wrong"));
        assert!(judge_growth(4, 8 * MIB, 1, 96 * MIB).is_err_and(|halt| halt.what.contains("up to 4 times")));
        assert!(judge_growth(usize::MAX, 2, 1, usize::MAX).is_err());
        assert!(judge_growth(1, 8 * MIB, 1, MIB).is_ok(), "the configuration judges rows as they are");
    }
}
