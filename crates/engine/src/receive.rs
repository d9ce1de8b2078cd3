//! From a message back to the upload: shapes are known from the orders, so that nothing a stranger writes can ask for more
//! memory than an upload has, and what does not fit is an error.

use bonfire_models::Adapter;

use crate::sketch::sketch_of;
use crate::upload::{HEADER, MAGIC, flags};
use crate::{ClientMemory, ClientPrivacy, Plan, Slots, TargetSlots, TrainSettings, Upload};

/// A message that is none, or that was not asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Something else.
    #[error("it is not an upload of bonfire")]
    Foreign,
    /// Of a client that the federation does not have.
    #[error("it is of client {client}, and the federation has {clients}")]
    Client {
        /// Client, from 0.
        client: usize,
        /// Clients of the federation.
        clients: usize,
    },
    /// Not what the orders of the round ask for.
    #[error("client {client}: {problem}")]
    Contents {
        /// Client, from 0.
        client: usize,
        /// What is wrong.
        problem: String,
    },
}

impl Upload {
    /// Reads what [`Upload::encode`] wrote on a client that had these orders and started from `global`, of a federation of
    /// `clients`. What is reported and not sent (loss, steps, tokens) is zero.
    ///
    /// # Errors
    /// Anything else: another client, factor or rank, slots that the client was not given or more than its budget, numbers
    /// that are too many, too few or not finite.
    pub fn decode(
        bytes: &[u8],
        plan: &Plan,
        global: &Adapter,
        settings: &TrainSettings,
        clients: usize,
    ) -> Result<Upload, MessageError> {
        let (head, body) = bytes.split_at_checked(HEADER).ok_or(MessageError::Foreign)?;
        let words = head[MAGIC.len()..].chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]));
        let words: Vec<usize> = words.map(|word| word as usize).collect();
        let [client, examples, said, rank] = words[..] else { return Err(MessageError::Foreign) };
        if !head.starts_with(MAGIC) {
            return Err(MessageError::Foreign);
        }
        if client >= clients {
            return Err(MessageError::Client { client, clients });
        }
        let bad = |problem: String| MessageError::Contents { client, problem };
        if rank != global.rank {
            return Err(bad(format!("its slots are of rank {rank}, this run's of {}", global.rank)));
        }
        if examples == 0 {
            return Err(bad("it holds no examples".into()));
        }
        if (said & flags::CHOSEN as usize != 0) != plan.selection.is_some() {
            return Err(bad("slots are chosen in this round, or are not; the message says otherwise".into()));
        }
        let (slots, numbers) = match &plan.selection {
            None => (plan.slots_of(client, global), body),
            Some(selection) => {
                let index = Slots::Chosen { rank, slots: TargetSlots::first(0, global.targets.len()) }.index_bytes();
                let (bits, numbers) = body.split_at_checked(index).ok_or_else(|| bad("it is cut short".into()))?;
                (Some(chosen(bits, plan, global, client, selection.budgets[client]).map_err(bad)?), numbers)
            }
        };
        let mut upload = empty(plan, global, settings, client, slots, numbers.len()).map_err(bad)?;
        upload.examples = examples;
        upload.kept = ClientMemory::default();
        if plan.wire.codes_uploads() {
            crate::wire::read(&plan.wire, numbers, &mut upload).map_err(bad)?;
        }
        if upload.flags() as usize != said {
            return Err(bad("it does not hold what this round trains".into()));
        }
        match upload.coded {
            Some(_) => finite(&upload).map_err(bad)?,
            None => fill(&mut upload, numbers).map_err(bad)?,
        }
        Ok(upload)
    }
}

/// The slots that `bits` name.
fn chosen(bits: &[u8], plan: &Plan, global: &Adapter, client: usize, budget: usize) -> Result<TargetSlots, String> {
    let rank = global.rank;
    let set = |at: usize| bits[at / 8] >> (at % 8) & 1 == 1;
    let of_target = |t: usize| (0..rank).filter(|slot| set(t * rank + slot)).collect();
    let slots: TargetSlots = (0..global.targets.len()).map(of_target).collect();
    let count = slots.count();
    if (rank * slots.len()..8 * bits.len()).any(set) {
        return Err("it names slots beyond the last".into());
    }
    if count > budget * slots.len() {
        return Err(format!("it holds {count} slots, and its budget is {}", budget * slots.len()));
    }
    let given = plan.slots_of(client, global);
    let stray = slots
        .iter()
        .enumerate()
        .find(|(t, list)| given.as_ref().is_some_and(|given| list.iter().any(|&slot| !given.contains(*t, slot))));
    match stray {
        Some((t, _)) => Err(format!("it holds a slot of {} that it was not given", global.targets[t].name)),
        None => Ok(slots),
    }
}

/// An upload of the right shapes for a message with so many `bytes` of numbers.
fn empty(
    plan: &Plan,
    global: &Adapter,
    settings: &TrainSettings,
    client: usize,
    slots: Option<TargetSlots>,
    bytes: usize,
) -> Result<Upload, String> {
    let mut plain = Plan { privacy: ClientPrivacy::Off, ..plan.clone() };
    let tail = plain.terms.tail.take();
    let numbers = |upload: &Upload| plan.wire.upload_len(upload);
    let whole = sketch_of(&plain, global, settings, client, slots.clone());
    // Where the length says nothing about the shapes, reading tells whether they fit.
    if numbers(&whole) == bytes || plan.wire.top_k.is_some() || plan.wire.deflate {
        return Ok(whole);
    }
    // A client that dropped its tail has sent the rest, of all targets.
    if let Some(tail) = tail {
        let mut slots = slots.unwrap_or_else(|| TargetSlots::first(global.rank, global.targets.len()));
        slots.truncate(|len| tail.keeps(len));
        let pruned = sketch_of(&plain, global, settings, client, Some(slots));
        if numbers(&pruned) == bytes {
            return Ok(pruned);
        }
    }
    Err(format!("it holds {bytes} bytes of numbers, expected {}", numbers(&whole)))
}

/// Fills the matrices in the order they were sent.
fn fill(upload: &mut Upload, bytes: &[u8]) -> Result<(), String> {
    let mut numbers = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    upload.matrices_mut().flat_map(|m| &mut m.data).zip(&mut numbers).for_each(|(v, number)| *v = number);
    finite(upload)
}

fn finite(upload: &Upload) -> Result<(), String> {
    let all = upload.matrices().chain(upload.aux.iter().flat_map(|(_, list)| list));
    if all.flat_map(|m| &m.data).all(|v| v.is_finite()) {
        Ok(())
    } else {
        Err("some of its numbers are not finite".into())
    }
}
