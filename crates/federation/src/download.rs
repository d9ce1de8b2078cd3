//! What a site (a machine that holds some of the clients) lacks to begin a round: the parts of the server's state that are newer than the site's copy, each as one
//! vector. The ledger counts the same message client by client.

use std::collections::{BTreeMap, BTreeSet};

use bonfire_data::random::{Use, stream};
use bonfire_engine::{ClientMemory, Plan, Role, TargetSlots, WireSettings};
use bonfire_models::{Adapter, DeltaLog, Factor, Matrix};

use crate::groups::Groups;
use crate::ledger::{Coming, HEADER};
use crate::{Coordinator, Server, Settings, groups};

/// The newer parts of the global model, in f32, or as `[wire]` shortens them.
///
/// | name | what |
/// |---|---|
/// | `a`, `b`, `core` | a factor, target by target, slot by slot: `[slots, width]` each |
/// | `head`, `weights` | their tensors one after the other |
/// | `merged-to`, `merged-from` | width of every target's log of merged updates, and of it what the site has |
/// | `merged-a`, `merged-b` | the columns and rows between, target by target |
/// | `groups` | of every client of the federation one more than its group's number; 0: it is in none, or not of the site |
/// | `group-0`, `group-1` … | by how much the group has moved: target by target A and B, slot by slot, then the head |
/// | `restart` | one number: A and B are the start that everybody draws from the seed after this round |
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Download {
    /// The round that it is for, from 1.
    pub round: usize,
    /// The round whose start it is put on top of; 0: of nothing.
    pub since: usize,
    /// The parts by name.
    pub parts: BTreeMap<String, Vec<f32>>,
    /// Those parts in the place of them that `wire.download` shortens: `a`, `b`, `core`, `head`, `weights`, row by row
    /// ([`bonfire_engine::WireSettings::write_download`]).
    pub coded: BTreeMap<String, Vec<u8>>,
}

/// Rows and width of matrices, in the order in which a part holds them.
type Shapes = Vec<(usize, usize)>;

/// A download that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DownloadError {
    /// It is put on top of something that is not there.
    #[error("it completes the start of round {since}, and the site holds {}", held(*holds))]
    Stale {
        /// What it needs.
        since: usize,
        /// What the site holds; 0: nothing.
        holds: usize,
    },
    /// A part is not as long as the model asks for, or unknown, or holds what is no number.
    #[error("its part \"{part}\" {problem}")]
    Part {
        /// The part.
        part: String,
        /// What is wrong.
        problem: String,
    },
}

fn held(round: usize) -> String {
    match round {
        0 => "nothing".into(),
        round => format!("that of round {round}"),
    }
}

/// How wide the log of merged updates was at the start of each round, as long as nothing but new columns came to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pushes {
    starts: BTreeMap<usize, Vec<usize>>,
}

impl Pushes {
    /// Notes what `round` did to the log.
    pub fn changed(&mut self, round: usize, before: &DeltaLog, after: &DeltaLog) {
        let starts_with = |(old, new): (&Matrix, &Matrix)| {
            old.cols <= new.cols
                && (0..old.rows)
                    .all(|r| old.data[r * old.cols..(r + 1) * old.cols] == new.data[r * new.cols..][..old.cols])
        };
        let grew = before.a.is_empty() || before.a.iter().zip(&after.a).all(starts_with);
        if grew {
            self.starts.entry(round).or_insert_with(|| widths(before));
        } else {
            // The log was factored anew, so its earlier columns are gone: from here on sites get all of it.
            self.starts.clear();
        }
        self.starts.insert(round + 1, widths(after));
    }
}

/// Columns of every target's log; empty before the first merge.
fn widths(log: &DeltaLog) -> Vec<usize> {
    log.a.iter().map(|m| m.cols).collect()
}

impl Download {
    pub(crate) fn new(from: &Coordinator, plan: &Plan, since: usize, clients: Option<&[usize]>) -> Download {
        let Coordinator { server, ledger, restarted, pushes, .. } = from;
        let limited = plan.live.is_some() || plan.ranks.is_some() || !plan.private.is_nothing();
        // A site that has only its clients' slots can be told all of them only from the beginning.
        let since = if limited && clients.is_none() { 0 } else { since.min(server.round + 1) };
        let newer = ledger.newer_than(since);
        let ever = plan.draws_anew().then(|| ledger.newer_than(0));
        let sent = |f: Factor| newer.factor(f) || ever.as_ref().is_some_and(|ever| ever.factor(f));
        let (mut parts, mut coded) = (BTreeMap::new(), BTreeMap::new());
        let mut put = |name: &str, matrices: Vec<Matrix>| {
            if plan.wire.codes_downloads() {
                coded.insert(name.into(), plan.wire.write_download(matrices));
            } else {
                parts.insert(name.into(), matrices.into_iter().flat_map(|m| m.data).collect::<Vec<f32>>());
            }
        };
        let adapter = &server.adapter;
        for factor in Factor::ALL.into_iter().filter(|&f| sent(f) && !adapter.factor(f).is_empty()) {
            if plan.seeded && factor != Factor::Core {
                continue;
            }
            let slots = sent_slots(plan, adapter, factor, clients);
            put(name(factor), gather(&slots, adapter, factor));
        }
        if newer.head && (plan.private.shares_head() || clients.is_none()) {
            put(HEAD, adapter.head.iter().map(|t| t.value.clone()).collect());
        }
        if newer.weights {
            put(WEIGHTS, adapter.weights.clone());
        }
        if plan.private.by_group {
            parts.extend(group_parts(server, since, clients));
        }
        if plan.seeded {
            parts.insert(RESTART.into(), vec![*restarted as f32]);
        }
        if newer.merged {
            let to = widths(&server.merged);
            let known = pushes.starts.get(&since).filter(|_| since > 0);
            let from = known.cloned().filter(|w| !w.is_empty()).unwrap_or_else(|| vec![0; to.len()]);
            let number = |widths: &[usize]| widths.iter().map(|&w| w as f32).collect::<Vec<f32>>();
            parts.insert(MERGED_TO.into(), number(&to));
            if from.iter().any(|&w| w > 0) {
                parts.insert(MERGED_FROM.into(), number(&from));
            }
            let a = server.merged.a.iter().zip(&from).flat_map(|(m, &f)| columns(m, f));
            parts.insert(MERGED_A.into(), a.collect());
            let b = server.merged.b.iter().zip(&from).flat_map(|(m, &f)| m.data[f * m.cols..].to_vec());
            parts.insert(MERGED_B.into(), b.collect());
        }
        Download { round: plan.round, since, parts, coded }
    }

    /// Bytes of the message as the ledger would count it for one client. Who is in which group goes beside it, as who takes part does.
    pub fn bytes(&self) -> u64 {
        let plain = self.parts.iter().filter(|(name, _)| *name != GROUPS).map(|(_, part)| 4 * part.len());
        HEADER + plain.chain(self.coded.values().map(Vec::len)).sum::<usize>() as u64
    }

    /// Brings the copy of a site that holds `since` to this round's start. `fresh` is the state before the first round,
    /// `clients` those of the site, `plan` the orders of the round where there are some.
    ///
    /// # Errors
    /// A part that does not fit, named; the copy is as it was.
    pub(crate) fn apply(
        mut self,
        copy: &mut Server,
        fresh: &Server,
        settings: &Settings,
        plan: Option<&Plan>,
        clients: &[usize],
    ) -> Result<(), DownloadError> {
        let bad = |part: &str, problem: String| DownloadError::Part { part: part.into(), problem };
        let wire = &settings.wire;
        if let Some((part, _)) = self.parts.iter().find(|(_, v)| v.iter().any(|v| !v.is_finite())) {
            return Err(bad(part, "holds what is no number".into()));
        }
        let mut next = if self.since == 0 { fresh.clone() } else { copy.clone() };
        if let Some(restart) = self.parts.remove(RESTART) {
            let [round] = restart[..] else { return Err(bad(RESTART, "must be one number".into())) };
            redraw(&mut next.adapter, &fresh.adapter, settings, round as u64);
        }
        for factor in Factor::ALL {
            let shapes = factor_shapes(&next.adapter, factor, plan, clients);
            let numbers = self.take(name(factor), wire, &shapes).map_err(|p| bad(name(factor), p))?;
            let Some(numbers) = numbers else { continue };
            if factor == Factor::Core && next.adapter.core.is_empty() {
                next.adapter.core = cores(&next.adapter, numbers.len())
                    .ok_or_else(|| bad(name(factor), format!("holds {} numbers, which fit no core", numbers.len())))?;
            }
            write_slots(&mut next.adapter, factor, &numbers, plan, clients).map_err(|p| bad(name(factor), p))?;
        }
        for part in [HEAD, WEIGHTS] {
            let tensors: Vec<&mut Matrix> = match part {
                HEAD => next.adapter.head.iter_mut().map(|t| &mut t.value).collect(),
                _ => next.adapter.weights.iter_mut().collect(),
            };
            let shapes = tensors.iter().map(|m| (m.rows, m.cols)).collect();
            let numbers = self.take(part, wire, &[shapes]).map_err(|p| bad(part, p))?;
            fill(numbers, tensors).map_err(|p| bad(part, p))?;
        }
        if settings.strategy.most_groups().is_some() {
            self.take_groups(&mut next, settings)?;
        }
        if let Some(to) = self.parts.remove(MERGED_TO) {
            next.merged = self.merge(&next, &to).map_err(|p| bad(MERGED_TO, p))?;
        }
        if let Some(part) = self.parts.keys().chain(self.coded.keys()).next() {
            return Err(bad(part, "is none that this version knows".into()));
        }
        if let Some(live) = plan.and_then(|plan| plan.live.as_ref()) {
            next.keep_only(live);
        }
        next.round = self.round;
        *copy = next;
        Ok(())
    }

    /// Takes out who of the site is in which group, and what those have.
    fn take_groups(&mut self, next: &mut Server, settings: &Settings) -> Result<(), DownloadError> {
        let bad = |part: &str, problem: &str| DownloadError::Part { part: part.into(), problem: problem.into() };
        let Some(numbers) = self.parts.remove(GROUPS) else { return Ok(()) };
        let clients = settings.clients.count;
        if numbers.len() != clients || numbers.iter().any(|&v| v.fract() != 0.0 || !(0.0..=clients as f32).contains(&v))
        {
            return Err(bad(GROUPS, "must be one whole number a client"));
        }
        let held = Groups::read(&next.state);
        let mut groups = Groups { parts: held.parts, moved: held.moved, ..Groups::none(clients) };
        for (client, group) in numbers.iter().enumerate().filter(|(_, group)| **group > 0.0) {
            groups.join(client, *group as usize - 1, 0);
        }
        let last = groups.of.iter().flatten().max().map_or(0, |last| last + 1);
        groups.parts.resize(groups.parts.len().max(last), ClientMemory::default());
        groups.moved.resize(groups.parts.len(), 0);
        let roles = roles_of_groups(&next.adapter, settings);
        for group in groups.of.iter().copied().flatten().collect::<BTreeSet<usize>>() {
            let part = group_name(group);
            let Some(numbers) = self.parts.remove(&part) else {
                if groups.parts[group].own.is_empty() {
                    return Err(bad(&part, "is missing"));
                }
                continue;
            };
            let shapes: Vec<[usize; 2]> = roles.iter().map(|role| role.shape(&next.adapter)).collect();
            if numbers.len() != shapes.iter().map(|[rows, cols]| rows * cols).sum::<usize>() {
                return Err(bad(&part, "is not as long as what a group has"));
            }
            let mut at = 0;
            for (&role, [rows, cols]) in roles.iter().zip(shapes) {
                let matrix = Matrix::new(rows, cols, numbers[at..at + rows * cols].to_vec());
                at += rows * cols;
                groups.parts[group].own.insert(role, matrix);
            }
        }
        groups.write(&mut next.state);
        Ok(())
    }

    /// Takes a part's numbers out; a short one is one of matrices of some of these shapes, by its length. `None`: it is not there.
    fn take(&mut self, part: &str, wire: &WireSettings, shapes: &[Shapes]) -> Result<Option<Vec<f32>>, String> {
        let Some(bytes) = self.coded.remove(part) else { return Ok(self.parts.remove(part)) };
        let fits = |shapes: &&Shapes| wire.downloads_len(shapes) == bytes.len();
        let shapes = shapes.iter().find(fits).ok_or_else(|| {
            format!(
                "holds {} bytes, which is the length of none that can be here under this site's wire.download",
                bytes.len()
            )
        })?;
        let numbers = wire.read_download(&bytes, shapes)?;
        if numbers.iter().any(|v| !v.is_finite()) {
            return Err("holds what is no number".into());
        }
        Ok(Some(numbers))
    }

    /// The log with the columns of this download.
    fn merge(&mut self, copy: &Server, to: &[f32]) -> Result<DeltaLog, String> {
        let targets = &copy.adapter.targets;
        let whole = |widths: &[f32]| -> Result<Vec<usize>, String> {
            let fits = |w: &f32| (0.0..1e6).contains(w) && w.fract() == 0.0;
            if widths.len() == targets.len() && widths.iter().all(fits) {
                Ok(widths.iter().map(|&w| w as usize).collect())
            } else {
                Err("must be one whole number a target".into())
            }
        };
        let to = whole(to)?;
        let from = self.parts.remove(MERGED_FROM).map_or(Ok(vec![0; targets.len()]), |from| whole(&from))?;
        let own = widths(&copy.merged);
        if from.iter().zip(&to).any(|(from, to)| from > to) || (from.iter().any(|&w| w > 0) && own != from) {
            return Err("does not go on from what the site has".into());
        }
        let (a, b) = (self.parts.remove(MERGED_A).unwrap_or_default(), self.parts.remove(MERGED_B).unwrap_or_default());
        let sizes = |d: fn(&bonfire_models::Target) -> usize| -> Vec<usize> {
            targets.iter().zip(from.iter().zip(&to)).map(|(t, (from, to))| d(t) * (to - from)).collect()
        };
        let (size_a, size_b) = (sizes(|t| t.d_in), sizes(|t| t.d_out));
        if a.len() != size_a.iter().sum::<usize>() || b.len() != size_b.iter().sum::<usize>() {
            return Err("does not say how much there is".into());
        }
        let mut log = DeltaLog { pushed: copy.merged.pushed + (a.len() + b.len()) as u64, ..DeltaLog::default() };
        let (mut at_a, mut at_b) = (0, 0);
        for (t, target) in targets.iter().enumerate() {
            let (new_a, new_b) = (&a[at_a..at_a + size_a[t]], &b[at_b..at_b + size_b[t]]);
            (at_a, at_b) = (at_a + size_a[t], at_b + size_b[t]);
            let more = to[t] - from[t];
            let (old_a, old_b): (&[f32], &[f32]) = match from[t] {
                0 => (&[], &[]),
                _ => (&copy.merged.a[t].data, &copy.merged.b[t].data),
            };
            let row = |r: usize| old_a[r * from[t]..(r + 1) * from[t]].iter().chain(&new_a[r * more..(r + 1) * more]);
            log.a.push(Matrix::new(target.d_in, to[t], (0..target.d_in).flat_map(row).copied().collect()));
            log.b.push(Matrix::new(to[t], target.d_out, [old_b, new_b].concat()));
        }
        Ok(log)
    }
}

const HEAD: &str = "head";
const GROUPS: &str = "groups";
const WEIGHTS: &str = "weights";
const RESTART: &str = "restart";
const MERGED_TO: &str = "merged-to";
const MERGED_FROM: &str = "merged-from";
const MERGED_A: &str = "merged-a";
const MERGED_B: &str = "merged-b";

fn name(factor: Factor) -> &'static str {
    match factor {
        Factor::A => "a",
        Factor::B => "b",
        Factor::Core => "core",
    }
}

fn group_name(group: usize) -> String {
    format!("group-{group}")
}

/// What a group has, in the order of its part.
fn roles_of_groups(adapter: &Adapter, settings: &Settings) -> BTreeSet<Role> {
    let factors = (0..adapter.targets.len()).flat_map(|t| [Factor::A, Factor::B].map(|f| Role::Factor(t, f)));
    let head = if settings.trains_head() { adapter.head.len() } else { 0 };
    factors.chain((0..head).map(Role::Head)).collect()
}

/// Who of `clients` (`None`: of all) is in which group, and of their groups those that are newer than the start of round `since`.
fn group_parts(server: &Server, since: usize, clients: Option<&[usize]>) -> BTreeMap<String, Vec<f32>> {
    let groups = Groups::read(&server.state);
    let here = |client: &usize| clients.is_none_or(|clients| clients.contains(client));
    let of = |client: usize| groups.of[client].filter(|_| here(&client));
    let mut parts = BTreeMap::new();
    if groups.parts.is_empty() {
        return parts;
    }
    let number = |client| of(client).map_or(0.0, |group| group as f32 + 1.0);
    parts.insert(GROUPS.into(), (0..groups.of.len()).map(number).collect());
    for (client, group) in (0..groups.of.len()).filter_map(|client| Some((client, of(client)?))) {
        if since == 0 || groups::is_newer(&server.state, client, since) {
            let numbers = || groups.parts[group].own.values().flat_map(|m| m.data.clone()).collect();
            parts.entry(group_name(group)).or_insert_with(numbers);
        }
    }
    parts
}

/// Columns of `m` from `from` on, row by row.
fn columns(m: &Matrix, from: usize) -> Vec<f32> {
    m.data.chunks(m.cols.max(1)).flat_map(|row| &row[from.min(row.len())..]).copied().collect()
}

/// The slots that a site is sent: all of them without `clients`; else those that any of the clients works with and does not
/// keep for itself.
fn sent_slots(plan: &Plan, adapter: &Adapter, factor: Factor, clients: Option<&[usize]>) -> TargetSlots {
    let (rank, targets) = (adapter.rank, adapter.targets.len());
    let all = || TargetSlots::first(rank, targets);
    let Some(clients) = clients else { return all() };
    let given: Vec<_> = clients.iter().map(|&client| plan.slots_held(client, adapter).unwrap_or_else(all)).collect();
    let anybodys = |t: usize| given.iter().flat_map(|slots| &slots[t]).copied().collect();
    let mut slots: TargetSlots = (0..targets).map(anybodys).collect();
    slots.retain(|t, slot| slot < plan.private.shared_rows(t, factor, rank));
    slots
}

/// A factor in these slots, one row a slot, target by target.
fn gather(slots: &TargetSlots, adapter: &Adapter, factor: Factor) -> Vec<Matrix> {
    slots.iter().enumerate().map(|(t, slots)| adapter.slot_rows(factor, t).rows(slots)).collect()
}

/// What a factor's part can hold: the slots of the site's clients, or every slot. Of cores that the site has none of yet, squares or gates.
fn factor_shapes(adapter: &Adapter, factor: Factor, plan: Option<&Plan>, clients: &[usize]) -> Vec<Shapes> {
    let (rank, targets) = (adapter.rank, adapter.targets.len());
    if adapter.factor(factor).is_empty() {
        return [rank, 1].map(|width| vec![(rank, width); targets]).into();
    }
    let own = plan.map(|plan| sent_slots(plan, adapter, factor, Some(clients)));
    let shape = |(t, slots): (usize, &Vec<usize>)| (slots.len(), adapter.factor(factor)[t].data.len() / rank);
    own.into_iter()
        .chain([TargetSlots::first(rank, targets)])
        .map(|s| s.iter().enumerate().map(shape).collect())
        .collect()
}

/// How many these are.
fn numbers_in(slots: &TargetSlots, adapter: &Adapter, factor: Factor) -> usize {
    let width = |t: usize| adapter.factor(factor)[t].data.len() / adapter.rank;
    slots.iter().enumerate().map(|(t, slots)| slots.len() * width(t)).sum()
}

/// Writes the numbers of a factor into its slots: every slot, or those of the site's clients.
fn write_slots(
    adapter: &mut Adapter,
    factor: Factor,
    numbers: &[f32],
    plan: Option<&Plan>,
    clients: &[usize],
) -> Result<(), String> {
    let whole = TargetSlots::first(adapter.rank, adapter.targets.len());
    let own = plan.map(|plan| sent_slots(plan, adapter, factor, Some(clients)));
    let fits = |slots: &TargetSlots| numbers_in(slots, adapter, factor) == numbers.len();
    let Some(slots) = own.filter(fits).or_else(|| Some(whole).filter(fits)) else {
        return Err(format!("holds {} numbers, which are neither all slots nor those of these clients", numbers.len()));
    };
    let mut at = 0;
    for (t, list) in slots.iter().enumerate() {
        let mut rows = adapter.slot_rows(factor, t);
        let width = rows.cols;
        for &slot in list {
            rows.data[slot * width..(slot + 1) * width].copy_from_slice(&numbers[at..at + width]);
            at += width;
        }
        adapter.factor_mut(factor)[t] = if factor == Factor::A { rows.transposed() } else { rows };
    }
    Ok(())
}

/// Empty cores for so many numbers: a gate a slot, or a square.
fn cores(adapter: &Adapter, numbers: usize) -> Option<Vec<Matrix>> {
    let (rank, targets) = (adapter.rank, adapter.targets.len());
    let cols = [rank, 1].into_iter().find(|cols| targets * rank * cols == numbers)?;
    Some(vec![Matrix::zeros(rank, cols); targets])
}

/// Fills the tensors one after the other.
fn fill(part: Option<Vec<f32>>, tensors: Vec<&mut Matrix>) -> Result<(), String> {
    let Some(part) = part else { return Ok(()) };
    let expected: usize = tensors.iter().map(|m| m.data.len()).sum();
    if expected != part.len() {
        return Err(format!("holds {} numbers, expected {expected}", part.len()));
    }
    let mut numbers = part.into_iter();
    tensors.into_iter().flat_map(|m| &mut m.data).zip(&mut numbers).for_each(|(v, number)| *v = number);
    Ok(())
}

/// The start that everybody draws from the seed after `round`; after round 0 that of the run.
fn redraw(adapter: &mut Adapter, fresh: &Adapter, settings: &Settings, round: u64) {
    (adapter.a, adapter.b) = match round {
        0 => (fresh.a.clone(), fresh.b.clone()),
        round => {
            let mut rng = stream(settings.train.seed, Use::Restart, round, 0, 0);
            let init = settings.adapter.init.draw();
            let drawn = Adapter::fresh(&fresh.targets, fresh.rank, fresh.alpha, init, Vec::new(), &mut rng);
            (drawn.a, drawn.b)
        }
    };
}

/// Which parts are newer than a copy.
impl Coming {
    pub(crate) fn factor(&self, factor: Factor) -> bool {
        match factor {
            Factor::A => self.a,
            Factor::B => self.b,
            Factor::Core => self.core,
        }
    }
}
