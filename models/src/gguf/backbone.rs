//! A whole model in one GGUF file (version 2 or 3), as a backbone: its configuration in Hugging Face's words, and where each
//! of its tensors lies under Hugging Face's name. Numbers are unpacked when they are read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use serde_json::{Value, json};

use super::blocks::Packing;
use crate::{ModelError, ModelInfo, Rope, RopeScaling};

/// A file's header.
pub(crate) struct Header {
    values: BTreeMap<String, Value>,
    tensors: Vec<Tensor>,
    /// Where the first tensor's bytes begin.
    data: u64,
    /// What each pair of features' wavelength is multiplied by, `[w/2]`, where the file has a table of it.
    wavelengths: Option<Vec<f32>>,
    file: String,
}

/// A tensor as the header has it.
struct Tensor {
    name: String,
    /// Rows first.
    shape: Vec<usize>,
    kind: u32,
    offset: u64,
}

/// Where a tensor of Hugging Face's name lies, and how its numbers become those of Hugging Face.
pub(crate) struct Placed {
    pub name: String,
    pub shape: Vec<usize>,
    pub at: u64,
    pub bytes: usize,
    pub packed: Packed,
}

/// How numbers are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    packing: Packing,
    /// Features of a head whose rows lie so that those turned together are neighbours.
    neighbours: Option<usize>,
    /// Whether a gain is stored plus 1.
    from_one: bool,
}

impl Packed {
    /// The numbers that bytes hold, in Hugging Face's order.
    pub fn unpack(&self, bytes: &[u8], shape: &[usize]) -> Vec<f32> {
        let mut numbers = self.packing.unpack(bytes);
        if self.from_one {
            numbers.iter_mut().for_each(|v| *v -= 1.0);
        }
        let Some(width) = self.neighbours else { return numbers };
        let columns = shape.get(1).copied().unwrap_or(1);
        let mut turned = vec![0.0; numbers.len()];
        for (row, from) in numbers.chunks_exact(columns).enumerate() {
            let to = super::ours(row, width);
            turned[to * columns..(to + 1) * columns].copy_from_slice(from);
        }
        turned
    }
}

/// No header comes near.
const MOST_ENTRIES: u64 = 1 << 20;

/// Arrays longer than it (vocabularies) are read past where the tokenizer is not asked for.
const LONGEST: u64 = 1024;

/// The table of wavelengths' factors, which the converter writes for Llama 3.1 and later.
const WAVELENGTHS: &str = "rope_freqs.weight";

impl Header {
    /// Reads the header of the file at `path`, without the vocabulary.
    ///
    /// # Errors
    /// A file that cannot be read or is no GGUF file.
    pub fn read(path: &Path) -> Result<Header, ModelError> {
        Header::read_lists(path, LONGEST)
    }

    /// As [`Header::read`], with the vocabulary.
    ///
    /// # Errors
    /// As there.
    pub fn with_vocabulary(path: &Path) -> Result<Header, ModelError> {
        Header::read_lists(path, u64::MAX)
    }

    fn read_lists(path: &Path, longest: u64) -> Result<Header, ModelError> {
        let shown = path.display().to_string();
        let unreadable = |source| ModelError::Read { path: path.to_path_buf(), source };
        let file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let mut from = Source { reader: BufReader::new(file), left: length, longest };
        from.header(&shown).map_err(|problem| ModelError::Config { file: shown.clone(), problem })
    }

    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.value(key).and_then(Value::as_str)
    }

    /// A list of the tokenizer's.
    pub(super) fn list(&self, key: &str) -> Option<&Vec<Value>> {
        self.value(&format!("tokenizer.ggml.{key}")).and_then(Value::as_array)
    }

    pub(super) fn bad(&self, problem: impl Into<String>) -> ModelError {
        ModelError::Config { file: self.file.clone(), problem: problem.into() }
    }

    /// The model's `config.json`, as Hugging Face would have it.
    ///
    /// # Errors
    /// An architecture that is not read from GGUF, or a key that is missing.
    pub fn config(&self) -> Result<Value, ModelError> {
        let name = self.text("general.architecture").unwrap_or("missing");
        let model_type = match name {
            "llama" | "qwen2" | "qwen3" | "smollm3" => name,
            "gemma3" => "gemma3_text",
            other => {
                let what = "of GGUF files, \"llama\", \"qwen2\", \"qwen3\", \"smollm3\" and \"gemma3\" can be read";
                return Err(self.bad(format!("general.architecture is {other}; {what}")));
            }
        };
        let key = |key: &str| self.values.get(&format!("{name}.{key}")).cloned();
        let need = |k: &str| key(k).ok_or_else(|| self.bad(format!("{name}.{k} is missing")));
        let table = self.tensors.iter().find(|t| t.name == "token_embd.weight");
        let vocabulary = table.map(|t| t.shape[0]).ok_or_else(|| self.bad("it has no token_embd.weight"))?;
        let mut config = json!({
            "model_type": model_type,
            "hidden_size": need("embedding_length")?,
            "num_hidden_layers": need("block_count")?,
            "num_attention_heads": need("attention.head_count")?,
            "intermediate_size": need("feed_forward_length")?,
            "max_position_embeddings": need("context_length")?,
            "rms_norm_eps": need("attention.layer_norm_rms_epsilon")?,
            "vocab_size": vocabulary,
            "tie_word_embeddings": !self.tensors.iter().any(|t| t.name == "output.weight"),
        });
        let map = config.as_object_mut().expect("an object");
        let mut put = |key: &str, value: Option<Value>| value.map(|value| map.insert(key.into(), value));
        put("num_key_value_heads", key("attention.head_count_kv"));
        put("head_dim", key("attention.key_length"));
        put("rope_theta", key("rope.freq_base"));
        put("sliding_window", key("attention.sliding_window").filter(|_| name == "gemma3"));
        put("eos_token_id", self.value("tokenizer.ggml.eos_token_id").cloned());
        let biased = self.tensors.iter().any(|t| t.name.ends_with("attn_q.bias"));
        put("mlp_bias", Some(json!(self.tensors.iter().any(|t| t.name.ends_with("ffn_gate.bias")))));
        put("attention_bias", Some(json!(biased && name != "qwen2")));
        if name == "gemma3" {
            // llama.cpp divides by the root of a head's features, but in the largest model by that of an even share.
            let share = key("attention.key_length").unwrap_or(json!(256));
            put("query_pre_attn_scalar", Some(if key("block_count") == Some(json!(62)) { json!(168) } else { share }));
        }
        let kind = self.text(&format!("{name}.rope.scaling.type")).unwrap_or("none");
        if kind == "linear" {
            put("rope_scaling", Some(json!({"rope_type": "linear", "factor": need("rope.scaling.factor")?})));
        } else if kind != "none" {
            return Err(self.bad(format!("{name}.rope.scaling.type is \"{kind}\"; \"linear\" is read from GGUF")));
        }
        if let Some(table) = &self.wavelengths {
            let base = key("rope.freq_base").and_then(|base| base.as_f64());
            let scaling = llama3(table, base.unwrap_or(10_000.0)).ok_or_else(|| {
                let what = "stretches wavelengths in another way than Llama 3.1's";
                self.bad(format!("{WAVELENGTHS} {what}; use the model's safetensors"))
            })?;
            put("rope_scaling", Some(scaling));
        }
        Ok(config)
    }

    /// Where the tensors of a model of shape `info` lie.
    ///
    /// # Errors
    /// A packing that is not known.
    pub fn places(&self, info: &ModelInfo) -> Result<Vec<Placed>, ModelError> {
        let one = |t: &Tensor| {
            let packing = Packing::of(t.kind).ok_or_else(|| {
                let names = Packing::names();
                self.bad(format!("tensor `{}` is packed by a way ({}) that is not read; {names} are", t.name, t.kind))
            })?;
            let numbers = t.shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
            let whole = numbers.filter(|n| n.is_multiple_of(packing.numbers));
            let bytes = whole.and_then(|n| (n / packing.numbers).checked_mul(packing.bytes));
            let bytes = bytes.ok_or_else(|| self.bad(format!("tensor `{}` is no number of whole blocks", t.name)))?;
            let gguf = info.architecture.describe();
            let turned = gguf.gguf_neighbours && (t.name.contains(".attn_q.") || t.name.contains(".attn_k."));
            let packed = Packed {
                packing,
                neighbours: turned.then_some(info.head_width),
                from_one: gguf.norm == crate::description::NormForm::RmsFromOne && t.name.contains("norm"),
            };
            let (name, at) = (present_name(&t.name, info), self.data.saturating_add(t.offset));
            Ok(Placed { name, shape: t.shape.clone(), at, bytes, packed })
        };
        self.tensors.iter().filter(|t| t.name != WAVELENGTHS).map(one).collect()
    }
}

/// Llama 3.1's `rope_scaling` that gives this table, if one does: the converter writes the factors and not what they come from.
/// Every such model has 1 and 4 as the factors of low and high frequencies, and a length of pretraining that is a power of two.
fn llama3(table: &[f32], base: f64) -> Option<Value> {
    let factor = f64::from(table.iter().copied().fold(1.0, f32::max));
    let plain = Rope::plain(base).frequencies(2 * table.len());
    let fits = |length: &i64| {
        let scaling = RopeScaling::Llama3 { factor, low: 1.0, high: 4.0, original: *length as f64 };
        let scaled = Rope { theta: base, scaling }.frequencies(2 * table.len());
        let mut factors = plain.iter().zip(scaled).zip(table);
        factors.all(|((plain, scaled), found)| (f64::from(*found) * scaled / plain - 1.0).abs() < 1e-4)
    };
    let length = (2..24).map(|power| 1i64 << power).find(fits)?;
    Some(json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": length}))
}

/// Hugging Face's name for a tensor, or GGUF's own where there is none.
fn present_name(name: &str, info: &ModelInfo) -> String {
    let outside = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        _ => None,
    };
    if let Some(outside) = outside {
        return outside.into();
    }
    let gemma = info.architecture == crate::Architecture::Gemma3;
    let parts = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let Some((layer, (module, end))) = parts.and_then(|(layer, rest)| Some((layer, rest.rsplit_once('.')?))) else {
        return name.to_string();
    };
    let module = match module {
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        "attn_norm" => "input_layernorm",
        "ffn_norm" if gemma => "pre_feedforward_layernorm",
        "ffn_norm" | "post_attention_norm" => "post_attention_layernorm",
        "post_ffw_norm" => "post_feedforward_layernorm",
        other => other,
    };
    format!("model.layers.{layer}.{module}.{end}")
}

/// What is left of a file to read.
struct Source<R> {
    reader: R,
    left: u64,
    /// The longest list that is kept.
    longest: u64,
}

impl<R: Read + Seek> Source<R> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.left = self.left.checked_sub(N as u64).ok_or("the file ends early")?;
        self.reader.read_exact(&mut bytes).map_err(|e| e.to_string())?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.take().map(u64::from_le_bytes)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), String> {
        self.left = self.left.checked_sub(bytes).ok_or("the file ends early")?;
        let bytes = i64::try_from(bytes).map_err(|_| "the file ends early")?;
        self.reader.seek(SeekFrom::Current(bytes)).map(drop).map_err(|e| e.to_string())
    }

    fn text(&mut self) -> Result<String, String> {
        let n = self.u64()?;
        self.left = self.left.checked_sub(n).ok_or("the file ends early")?;
        let mut bytes = vec![0; n as usize];
        self.reader.read_exact(&mut bytes).map_err(|e| e.to_string())?;
        String::from_utf8(bytes).map_err(|_| "a text in it is not UTF-8".into())
    }

    /// A value of the kind with this number; null for a long array.
    fn value(&mut self, kind: u32) -> Result<Value, String> {
        Ok(match kind {
            0 => json!(self.take::<1>()?[0]),
            1 => json!(self.take::<1>()?[0] as i8),
            2 => json!(u16::from_le_bytes(self.take()?)),
            3 => json!(i16::from_le_bytes(self.take()?)),
            4 => json!(self.u32()?),
            5 => json!(i32::from_le_bytes(self.take()?)),
            6 => json!(f64::from(f32::from_le_bytes(self.take()?))),
            7 => json!(self.take::<1>()?[0] != 0),
            8 => json!(self.text()?),
            9 => {
                let (kind, n) = (self.u32()?, self.u64()?);
                if n > self.longest {
                    self.skip_array(kind, n)?;
                    return Ok(Value::Null);
                }
                if kind == 9 {
                    return Err("lists of lists are not read".into());
                }
                (0..n).map(|_| self.value(kind)).collect::<Result<Vec<_>, _>>()?.into()
            }
            10 => json!(self.u64()?),
            11 => json!(i64::from_le_bytes(self.take()?)),
            12 => json!(f64::from_le_bytes(self.take()?)),
            other => return Err(format!("a value is of a kind that cannot be read ({other})")),
        })
    }

    fn skip_array(&mut self, kind: u32, n: u64) -> Result<(), String> {
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 => {
                for _ in 0..n {
                    let length = self.u64()?;
                    self.skip(length)?;
                }
                return Ok(());
            }
            other => return Err(format!("a list is of a kind that cannot be read ({other})")),
        };
        self.skip(n.checked_mul(size).ok_or("the file ends early")?)
    }

    fn header(&mut self, shown: &str) -> Result<Header, String> {
        let whole = self.left;
        if &self.take::<4>()? != b"GGUF" {
            return Err("not a GGUF file".into());
        }
        let version = self.u32()?;
        if !(2..=3).contains(&version) {
            return Err(format!("a GGUF file of version {version}; 2 and 3 can be read"));
        }
        let (tensors, values) = (self.u64()?, self.u64()?);
        if tensors > MOST_ENTRIES || values > MOST_ENTRIES {
            return Err("its header has no sensible length".into());
        }
        let mut read = BTreeMap::new();
        for _ in 0..values {
            let (key, kind) = (self.text()?, self.u32()?);
            let value = self.value(kind).map_err(|e| format!("{key}: {e}"))?;
            read.insert(key, value);
        }
        let tensors = (0..tensors).map(|_| self.tensor()).collect::<Result<Vec<_>, _>>()?;
        let alignment = read.get("general.alignment").and_then(Value::as_u64).unwrap_or(32).max(1);
        let data = (whole - self.left).next_multiple_of(alignment);
        let wavelengths = match tensors.iter().find(|t: &&Tensor| t.name == WAVELENGTHS) {
            None => None,
            Some(table) if table.kind == 0 && table.shape.len() == 1 => {
                self.skip((data - (whole - self.left)).saturating_add(table.offset))?;
                let numbers = (0..table.shape[0]).map(|_| self.take().map(f32::from_le_bytes));
                Some(numbers.collect::<Result<Vec<_>, _>>()?)
            }
            Some(_) => return Err(format!("tensor `{WAVELENGTHS}` is no list of f32")),
        };
        Ok(Header { values: read, tensors, data, wavelengths, file: shown.to_string() })
    }

    fn tensor(&mut self) -> Result<Tensor, String> {
        let (name, dimensions) = (self.text()?, self.u32()?);
        if !(1..=4).contains(&dimensions) {
            return Err(format!("tensor `{name}` has {dimensions} dimensions"));
        }
        let size = |n: u64| usize::try_from(n).map_err(|_| "the file ends early".to_string());
        // The fastest dimension comes first.
        let mut shape = (0..dimensions).map(|_| self.u64().and_then(size)).collect::<Result<Vec<_>, _>>()?;
        shape.reverse();
        Ok(Tensor { name, shape, kind: self.u32()?, offset: self.u64()? })
    }
}
