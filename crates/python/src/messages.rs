//! What crosses between a server and its sites: plan, download, upload. Each is made of plain numbers, text and arrays, so
//! that any transport can carry it, and is read back with checks.

use bonfire_engine::{self as engine, Named, UPLOAD_HEADER, UPLOAD_MAGIC};
use bonfire_federation as federation;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMapping};
use serde::{Deserialize, Serialize};

use crate::arrays;
use crate::errors::user_error;

/// The server's orders for one round, and who is to take part.
#[pyclass(frozen, module = "bonfire")]
pub struct Plan {
    pub orders: engine::Plan,
    pub cohort: Vec<usize>,
}

/// The text of a plan on the wire.
#[derive(Serialize, Deserialize)]
struct Text<P> {
    clients: Vec<usize>,
    plan: P,
}

#[pymethods]
impl Plan {
    /// Reads a plan that came over a wire as `text` and `arrays`.
    #[new]
    #[pyo3(signature = (text, arrays = None))]
    fn new(py: Python<'_>, text: &str, arrays: Option<&Bound<'_, PyMapping>>) -> PyResult<Plan> {
        let bad = |e: &dyn std::fmt::Display| user_error(py, format!("the text is not that of a plan: {e}"));
        let Text::<serde_json::Value> { clients, plan } = serde_json::from_str(text).map_err(|e| bad(&e))?;
        let mut tensors = Named::new();
        for item in arrays.map(|arrays| arrays.items()).transpose()?.into_iter().flatten() {
            let (name, array): (String, Bound<'_, PyAny>) = item.extract()?;
            let matrix = arrays::matrix(&name, &array)?;
            tensors.insert(name, matrix);
        }
        let orders = engine::Plan::from_message(&plan.to_string(), &tensors).map_err(|e| bad(&e))?;
        Ok(Plan { orders, cohort: clients })
    }

    /// The round, from 1.
    #[getter]
    fn round(&self) -> usize {
        self.orders.round
    }

    /// What trains: `"A"`, `"B"`, `"AB"`, `"core"`, `"AB+core"` or `"full"`.
    #[getter]
    fn phase(&self) -> &'static str {
        self.orders.active.name()
    }

    /// The round's cohort, ascending.
    #[getter]
    fn clients(&self) -> Vec<usize> {
        self.cohort.clone()
    }

    /// The orders as JSON.
    #[getter]
    fn text(&self, py: Python<'_>) -> PyResult<String> {
        let text = Text { clients: self.cohort.clone(), plan: &self.orders };
        serde_json::to_string(&text).map_err(|e| crate::errors::other(py, e))
    }

    /// What some methods send besides, each `[rows, cols]`: control variates, moments.
    #[getter]
    fn arrays<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        arrays::matrices(py, &self.orders.to_message().1)
    }

    fn __repr__(&self) -> String {
        format!("Plan(round={}, phase={:?}, {} clients)", self.orders.round, self.phase(), self.cohort.len())
    }
}

/// What a site lacks to begin a round.
#[pyclass(frozen, module = "bonfire")]
pub struct Download(pub federation::Download);

#[pymethods]
impl Download {
    /// Reads a download that came over a wire.
    #[new]
    fn new(round: usize, since: usize, arrays: &Bound<'_, PyMapping>) -> PyResult<Download> {
        let mut download = federation::Download { round, since, ..federation::Download::default() };
        for item in arrays.items()? {
            let (name, array): (String, Bound<'_, PyAny>) = item.extract()?;
            // What `[wire]` shortens are bytes.
            if let Ok((_, bytes)) = arrays::read::<u8>(&name, "uint8", &array) {
                download.coded.insert(name, bytes);
                continue;
            }
            let part = arrays::vector(&name, &array)?;
            download.parts.insert(name, part);
        }
        Ok(Download(download))
    }

    /// The round that it is for, from 1.
    #[getter]
    fn round(&self) -> usize {
        self.0.round
    }

    /// The round whose start it is put on top of; 0: of nothing.
    #[getter]
    fn since(&self) -> usize {
        self.0.since
    }

    /// The parts by name, each one vector `[n]`; where `[wire]` shortens them, their bytes.
    #[getter]
    fn arrays<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for (name, part) in &self.0.parts {
            dict.set_item(name, arrays::floats(py, part)?)?;
        }
        for (name, part) in &self.0.coded {
            dict.set_item(name, arrays::bytes(py, part)?)?;
        }
        Ok(dict)
    }

    /// Bytes of the message, as the ledger would count it for one client.
    #[getter]
    fn nbytes(&self) -> u64 {
        self.0.bytes()
    }

    fn __repr__(&self) -> String {
        let plain = self.0.parts.iter().map(|(name, part)| format!("{name}[{}]", part.len()));
        let coded = self.0.coded.iter().map(|(name, part)| format!("{name}[{} bytes]", part.len()));
        let parts: Vec<String> = plain.chain(coded).collect();
        format!("Download(round={}, since={}, {})", self.0.round, self.0.since, parts.join(", "))
    }
}

/// What one client learnt in one round.
#[pyclass(frozen, module = "bonfire")]
pub struct Upload {
    /// Client, examples, flags and rank: what the message begins with.
    words: [u32; 4],
    slots: Option<Vec<u8>>,
    values: Values,
    /// What is told beside the message.
    pub loss: f64,
    pub steps: usize,
    pub tokens: u64,
}

/// The numbers of a message.
enum Values {
    /// As they are.
    Floats(Vec<f32>),
    /// As `[wire]` writes them.
    Coded(Vec<u8>),
}

/// The bit of the flags that says which.
const CODED: u32 = engine::UPLOAD_CODED;

/// The words of a message after what it begins with.
const NAMES: [&str; 4] = ["client", "examples", "flags", "rank"];

impl Values {
    fn bytes(&self) -> usize {
        match self {
            Values::Floats(floats) => 4 * floats.len(),
            Values::Coded(coded) => coded.len(),
        }
    }
}

impl Upload {
    pub fn of(upload: &engine::Upload) -> Upload {
        let message = upload.encode();
        let (head, body) = message.split_at(UPLOAD_HEADER);
        let (bits, numbers) = body.split_at(upload.slots.index_bytes());
        let word = |i: usize| u32::from_le_bytes([0, 1, 2, 3].map(|j| head[UPLOAD_MAGIC.len() + 4 * i + j]));
        Upload {
            words: [0, 1, 2, 3].map(word),
            slots: matches!(upload.slots, engine::Slots::Chosen { .. }).then(|| bits.to_vec()),
            values: if upload.coded.is_some() {
                Values::Coded(numbers.to_vec())
            } else {
                let floats = numbers.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                Values::Floats(floats.collect())
            },
            loss: upload.loss,
            steps: upload.steps,
            tokens: upload.tokens,
        }
    }

    /// The message as it was made.
    pub fn message(&self) -> Vec<u8> {
        let mut bytes = UPLOAD_MAGIC.to_vec();
        self.words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes.extend(self.slots.iter().flatten());
        match &self.values {
            Values::Floats(floats) => floats.iter().for_each(|v| bytes.extend(v.to_le_bytes())),
            Values::Coded(coded) => bytes.extend(coded),
        }
        bytes
    }
}

#[pymethods]
impl Upload {
    /// Reads an upload that came over a wire.
    #[new]
    #[pyo3(signature = (header, values, slots = None))]
    fn new(
        header: &Bound<'_, PyMapping>,
        values: &Bound<'_, PyAny>,
        slots: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Upload> {
        let py = header.py();
        let get = |name: &str| {
            header.get_item(name).map_err(|_| user_error(py, format!("the upload's header has no {name}")))
        };
        let wrong = |name: &str| user_error(py, format!("{name} in the upload's header is not a number that can be"));
        let mut words = [0u32; 4];
        for (word, name) in words.iter_mut().zip(NAMES) {
            *word = get(name)?.extract().map_err(|_| wrong(name))?;
        }
        let loss: f64 = get("loss")?.extract().map_err(|_| wrong("loss"))?;
        if !loss.is_finite() {
            return Err(wrong("loss"));
        }
        Ok(Upload {
            words,
            slots: slots.map(|slots| Ok::<_, PyErr>(arrays::read("slots", "uint8", slots)?.1)).transpose()?,
            values: if words[2] & CODED == 0 {
                Values::Floats(arrays::vector("values", values)?)
            } else {
                Values::Coded(arrays::read("values", "uint8", values)?.1)
            },
            loss,
            steps: get("steps")?.extract().map_err(|_| wrong("steps"))?,
            tokens: get("tokens")?.extract().map_err(|_| wrong("tokens"))?,
        })
    }

    /// The client, from 0.
    #[getter]
    pub fn client(&self) -> usize {
        self.words[0] as usize
    }

    /// Examples in its shard: its weight in the average.
    #[getter]
    fn examples(&self) -> usize {
        self.words[1] as usize
    }

    /// Mean loss over its local steps, the probe not counted.
    #[getter]
    fn loss(&self) -> f64 {
        self.loss
    }

    /// Its local steps, the probe not counted.
    #[getter]
    fn steps(&self) -> usize {
        self.steps
    }

    /// Real tokens it trained on, the probe included.
    #[getter]
    fn tokens(&self) -> u64 {
        self.tokens
    }

    /// All of it that is no array: client, examples, flags, rank, loss, steps, tokens.
    #[getter]
    fn header<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for (name, word) in NAMES.iter().zip(self.words) {
            dict.set_item(name, word)?;
        }
        dict.set_item("loss", self.loss)?;
        dict.set_item("steps", self.steps)?;
        dict.set_item("tokens", self.tokens)?;
        Ok(dict)
    }

    /// Which slots these are, where the client chose them: one bit for each slot of each target.
    #[getter]
    fn slots<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.slots.as_ref().map(|slots| arrays::bytes(py, slots)).transpose()
    }

    /// The numbers `[n]`: factor by factor, target by target, slot by slot; then the head and what else is sent. Where `[wire]`
    /// shortens messages, their bytes.
    #[getter]
    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match &self.values {
            Values::Floats(floats) => arrays::floats(py, floats),
            Values::Coded(coded) => arrays::bytes(py, coded),
        }
    }

    /// Bytes of the message as the ledger counts it: 20, the slots and the values.
    #[getter]
    fn nbytes(&self) -> usize {
        UPLOAD_HEADER + self.slots.as_ref().map_or(0, Vec::len) + self.values.bytes()
    }

    fn __repr__(&self) -> String {
        format!(
            "Upload(client={}, examples={}, {} bytes of values)",
            self.client(),
            self.examples(),
            self.values.bytes()
        )
    }
}
