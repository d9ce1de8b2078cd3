//! How numbers cross between server and clients: in fewer bits, or only the largest of them. What the server computes with is
//! what it would decode, so that a run shows what is lost; what a client could not send it keeps and adds to what it sends next
//! (error feedback: Seide et al. 2014; Karimireddy et al., arXiv 1901.09847).

mod code;
mod positions;

use std::io::{Read, Write};

use bonfire_data::random::{Use, stream};
use bonfire_models::{Adapter, Factor, Matrix};
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ClientMemory, Plan, Problem, Role, Upload};

pub use code::Coding;

/// `[wire]`: how messages are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WireSettings {
    /// What clients send: `"f32"`, `"bf16"`, `"f16"` (each number rounded to the nearest), `"int8"` or `"int4"` (whole numbers
    /// times a scale for every 64 of them, rounded up or down by chance so that nothing is lost on average). SCAFFOLD's variates
    /// and other things that a method sends besides movements stay f32.
    #[serde(default)]
    pub upload: Coding,
    /// What clients are sent: as `upload`, but rounded to the nearest. Clients train from what they were sent; the server's own
    /// model stays f32.
    #[serde(default)]
    pub download: Coding,
    /// The head's numbers in uploads, where they are to cross otherwise than the adapter's.
    #[serde(default)]
    pub head: Option<Coding>,
    /// Share of an upload's numbers that are sent, those that are largest; the others count as not moved. Left out: all.
    #[serde(default)]
    pub top_k: Option<f64>,
    /// Whether a client adds to what it sends what it could not send before. Left out: where `upload` is int8 or int4 or `top_k` is
    /// given, and the strategy's slots mean the same from round to round.
    #[serde(default)]
    pub error_feedback: Option<bool>,
    /// Whether the numbers of an upload are packed by DEFLATE too, which loses nothing.
    #[serde(default)]
    pub deflate: bool,
}

/// What is coded together: the adapter's movement, or the weights', and the head's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    Adapter,
    Head,
}

/// An upload's numbers as they cross.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coded {
    /// The bytes after header and slots.
    pub bytes: Vec<u8>,
    /// Of these, which of the numbers were sent.
    pub index_bytes: usize,
    /// Numbers of the adapter that were sent, or of the weights.
    pub adapter: u64,
    /// Numbers of the head that were sent.
    pub head: u64,
}

impl WireSettings {
    /// The first thing wrong with the numbers.
    pub fn problem(&self) -> Option<Problem> {
        let share = self.top_k?;
        let fits = share > 0.0 && share <= 1.0;
        (!fits).then(|| Problem::new("wire.top_k", format!("is {share}; a share lies above 0 and is at most 1")))
    }

    /// Whether uploads cross otherwise than as they are in f32.
    pub fn codes_uploads(&self) -> bool {
        let plain = [self.upload, self.head.unwrap_or(self.upload)].iter().all(|coding| *coding == Coding::F32);
        !plain || self.top_k.is_some() || self.deflate
    }

    /// Whether downloads do.
    pub fn codes_downloads(&self) -> bool {
        self.download != Coding::F32
    }

    /// Whether much is lost of a single message.
    pub fn is_coarse(&self) -> bool {
        let coarse = |coding| matches!(coding, Coding::Int8 | Coding::Int4);
        self.top_k.is_some() || coarse(self.upload) || self.head.is_some_and(coarse)
    }

    fn upload_of(&self, group: Group) -> Coding {
        match group {
            Group::Adapter => self.upload,
            Group::Head => self.head.unwrap_or(self.upload),
        }
    }

    /// How many of so many numbers are sent.
    fn sent(&self, numbers: usize) -> usize {
        self.top_k.map_or(numbers, |share| ((share * numbers as f64).ceil() as usize).min(numbers))
    }

    /// Bytes of a group of so many numbers; with `top_k` at most.
    fn group_len(&self, group: Group, numbers: usize) -> usize {
        let index = match self.top_k {
            Some(_) if numbers > 0 => positions::most(numbers),
            _ => 0,
        };
        index + self.upload_of(group).len(self.sent(numbers))
    }

    /// Bytes of an upload's numbers, known from its shapes; with `top_k` or `deflate` at most.
    pub fn upload_len(&self, upload: &Upload) -> usize {
        self.group_len(Group::Adapter, upload.adapter_params() as usize)
            + self.group_len(Group::Head, upload.head_params() as usize)
            + 4 * upload.aux_params() as usize
    }

    /// Bytes of an upload's whole message with `more` numbers of the adapter than it holds: as [`Self::upload_len`].
    pub fn message_len(&self, upload: &Upload, more: usize) -> usize {
        let own = upload.adapter_params() as usize;
        let longer = self.group_len(Group::Adapter, own + more) - self.group_len(Group::Adapter, own);
        crate::UPLOAD_HEADER + upload.slots.index_bytes() + self.upload_len(upload) + longer
    }

    /// Numbers of adapter and head that are sent of an upload with `more` numbers of the adapter than it holds.
    pub fn sent_params(&self, upload: &Upload, more: usize) -> u64 {
        let [adapter, head] = [upload.adapter_params() as usize + more, upload.head_params() as usize];
        (self.sent(adapter) + self.sent(head)) as u64
    }

    /// Bytes of a downloaded matrix of so many numbers in rows of `width`, each row coded by itself.
    pub fn download_len(&self, numbers: usize, width: usize) -> usize {
        if numbers == 0 { 0 } else { numbers / width * self.download.len(width) }
    }

    /// Downloaded matrices as they cross, one after the other, each row coded by itself.
    pub fn write_download(&self, matrices: impl IntoIterator<Item = Matrix>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for mut matrix in matrices {
            self.download.write_rows(&mut matrix, &mut bytes);
        }
        bytes
    }

    /// Bytes of matrices of these shapes, `(rows, width)`.
    pub fn downloads_len(&self, shapes: &[(usize, usize)]) -> usize {
        shapes.iter().map(|&(rows, width)| self.download_len(rows * width, width)).sum()
    }

    /// The numbers of matrices of these shapes, `(rows, width)`, that [`Self::write_download`] wrote.
    ///
    /// # Errors
    /// Bytes that are too few or too many.
    pub fn read_download(&self, mut bytes: &[u8], shapes: &[(usize, usize)]) -> Result<Vec<f32>, String> {
        let mut numbers = Vec::new();
        for &(rows, width) in shapes.iter().filter(|(_, width)| *width > 0) {
            for _ in 0..rows {
                numbers.extend(self.download.read(&mut bytes, width)?);
            }
        }
        if bytes.is_empty() { Ok(numbers) } else { Err(format!("it holds {} bytes too many", bytes.len())) }
    }

    /// Leaves in a factor what clients know of it that were sent it, each slot coded by itself, whoever else is sent.
    pub fn round_factor(&self, adapter: &mut Adapter, factor: Factor) {
        for matrix in adapter.factor_mut(factor) {
            // A slot of A is a column.
            *matrix = match factor {
                Factor::A => self.download.rounded(&matrix.transposed()).transposed(),
                Factor::B | Factor::Core => self.download.rounded(matrix),
            };
        }
    }

    /// The matrix as clients know it that were sent it.
    pub fn rounded(&self, matrix: &Matrix) -> Matrix {
        self.download.rounded(matrix)
    }
}

/// Writes `upload` as it will cross: adds what the client could not send before, codes the numbers, and leaves in the upload those
/// that the server decodes. What is lost goes into `upload.kept` where `feedback` asks for it. The rounding is a function of
/// (seed, round, client).
pub fn write(
    wire: &WireSettings,
    plan: &Plan,
    seed: u64,
    memory: Option<&ClientMemory>,
    feedback: bool,
    upload: &mut Upload,
) {
    if !wire.codes_uploads() {
        return;
    }
    if let Some(memory) = memory.filter(|_| feedback) {
        for (role, slots, matrix) in movements(upload) {
            let Some(lost) = memory.lost.get(&role) else { continue };
            for (row, slot) in matrix.data.chunks_exact_mut(lost.cols.max(1)).zip(slots) {
                row.iter_mut().zip(&lost.data[slot * lost.cols..]).for_each(|(v, l)| *v += l);
            }
        }
    }
    let meant = feedback.then(|| upload.clone());
    let mut rng = stream(seed, Use::Wire, plan.round as u64, upload.client as u64, 0);
    let (mut bytes, mut index_bytes, mut counts) = (Vec::new(), 0, [0; 2]);
    for (group, count) in [Group::Adapter, Group::Head].into_iter().zip(&mut counts) {
        let mut numbers = gathered(upload, group);
        let sent = wire.sent(numbers.len());
        *count = sent as u64;
        if wire.top_k.is_some() && !numbers.is_empty() {
            let places = positions::largest(&numbers, sent);
            let start = bytes.len();
            positions::write(&places, numbers.len(), &mut bytes);
            index_bytes += bytes.len() - start;
            let mut few: Vec<f32> = places.iter().map(|&at| numbers[at]).collect();
            wire.upload_of(group).write(&mut few, Some(&mut rng), &mut bytes);
            numbers.fill(0.0);
            places.iter().zip(few).for_each(|(&at, v)| numbers[at] = v);
        } else {
            wire.upload_of(group).write(&mut numbers, Some(&mut rng), &mut bytes);
        }
        scatter(upload, group, &numbers);
    }
    let aux = upload.aux.iter().flat_map(|(_, list)| list).flat_map(|m| &m.data);
    aux.for_each(|v| bytes.extend(v.to_le_bytes()));
    if wire.deflate {
        let mut packer = DeflateEncoder::new(Vec::new(), Compression::default());
        packer.write_all(&bytes).expect("memory takes all");
        bytes = packer.finish().expect("memory takes all");
    }
    upload.coded = Some(Coded { bytes, index_bytes, adapter: counts[0], head: counts[1] });
    let Some(mut meant) = meant else { return };
    for (m, sent) in meant.matrices_mut().zip(upload.matrices()) {
        m.data.iter_mut().zip(&sent.data).for_each(|(m, sent)| *m -= sent);
    }
    let rank = upload.slots.rank();
    for (role, slots, missing) in movements(&mut meant) {
        let rows = if matches!(role, Role::Factor(..)) { rank } else { missing.rows };
        let before = memory.and_then(|memory| memory.lost.get(&role)).cloned();
        let mut lost = before.unwrap_or_else(|| Matrix::zeros(rows, missing.cols));
        for (row, slot) in missing.data.chunks_exact(lost.cols.max(1)).zip(slots) {
            lost.data[slot * lost.cols..][..lost.cols].copy_from_slice(row);
        }
        upload.kept.lost.insert(role, lost);
    }
}

/// Reads the numbers of an upload of known shapes that [`write`] wrote. What is lost stays lost: the numbers are the decoded ones.
///
/// # Errors
/// Bytes that are not those of such a message.
pub(crate) fn read(wire: &WireSettings, bytes: &[u8], upload: &mut Upload) -> Result<(), String> {
    let most = wire.upload_len(upload);
    let mut unpacked = Vec::new();
    let mut rest = if wire.deflate {
        // One byte more than there can be tells a message that is too long from one that fits.
        let read = DeflateDecoder::new(bytes).take(most as u64 + 1).read_to_end(&mut unpacked);
        read.map_err(|e| format!("its numbers cannot be unpacked ({e})"))?;
        unpacked.as_slice()
    } else {
        bytes
    };
    let (mut index_bytes, mut counts) = (0, [0; 2]);
    for (group, count) in [Group::Adapter, Group::Head].into_iter().zip(&mut counts) {
        let all: usize = group_of(upload, group).iter().map(|m| m.data.len()).sum();
        let sent = wire.sent(all);
        *count = sent as u64;
        let numbers = if wire.top_k.is_some() && all > 0 {
            let before = rest.len();
            let places = positions::read(&mut rest, all, sent)?;
            index_bytes += before - rest.len();
            let few = wire.upload_of(group).read(&mut rest, sent)?;
            let mut numbers = vec![0.0; all];
            places.iter().zip(few).for_each(|(&at, v)| numbers[at] = v);
            numbers
        } else {
            wire.upload_of(group).read(&mut rest, sent)?
        };
        scatter(upload, group, &numbers);
    }
    for v in upload.aux.iter_mut().flat_map(|(_, list)| list).flat_map(|m| &mut m.data) {
        *v = f32::from_le_bytes(code::take(&mut rest)?);
    }
    if !rest.is_empty() {
        return Err(format!("it holds {} bytes too many", rest.len()));
    }
    upload.coded = Some(Coded { bytes: bytes.to_vec(), index_bytes, adapter: counts[0], head: counts[1] });
    Ok(())
}

fn group_of(upload: &mut Upload, group: Group) -> Vec<&mut Matrix> {
    match group {
        Group::Adapter => upload.factors.iter_mut().flat_map(|(_, list)| list).chain(&mut upload.weights).collect(),
        Group::Head => upload.head.iter_mut().collect(),
    }
}

fn gathered(upload: &mut Upload, group: Group) -> Vec<f32> {
    group_of(upload, group).into_iter().flat_map(|m| &m.data).copied().collect()
}

fn scatter(upload: &mut Upload, group: Group, numbers: &[f32]) {
    group_of(upload, group).into_iter().flat_map(|m| &mut m.data).zip(numbers).for_each(|(v, n)| *v = *n);
}

/// The movement, matrix by matrix, each with the slots that its rows are of, or the numbers of its rows in a weight or in the head.
fn movements(upload: &mut Upload) -> Vec<(Role, Vec<usize>, &mut Matrix)> {
    let roles: Vec<Role> = upload.roles().collect();
    let slots = upload.slots.clone();
    let places = move |role: Role, rows: usize| match role {
        Role::Factor(t, _) => slots.of(t),
        Role::Weight(_) | Role::Head(_) => (0..rows).collect(),
    };
    roles.into_iter().zip(upload.matrices_mut()).map(|(role, m)| (role, places(role, m.rows), m)).collect()
}

#[cfg(test)]
mod tests;
