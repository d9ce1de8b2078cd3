//! Conversations, with all that a chat template may read of them.

use crate::Cell;
use crate::cell::field;

/// A conversation with at least one turn of the assistant's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// The turns.
    pub turns: Vec<Message>,
    /// The other fields of its row, which a template may read by name: `tools`, `documents` and what else there is.
    pub fields: Vec<(String, Cell)>,
    /// The first turn that may be scored: those of a prompt are not.
    pub from: usize,
}

/// One turn of a conversation: its fields in the order of the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message(Vec<(String, Cell)>);

impl Message {
    /// A turn that says `content`.
    pub fn new(role: &str, content: &str) -> Message {
        Message(vec![("role".to_owned(), Cell::from(role)), ("content".to_owned(), Cell::from(content))])
    }

    /// A turn of these fields; `None` without a text `role`. Fields that hold nothing count as not there, as in Transformers: many
    /// templates would write the word for it.
    pub fn of(mut fields: Vec<(String, Cell)>) -> Option<Message> {
        fields.retain(|(_, cell)| !cell.is_null());
        field(&fields, "role").and_then(Cell::text).is_some().then_some(Message(fields))
    }

    /// `system`, `user`, `assistant`, `tool`, or what else the model's chat template knows.
    pub fn role(&self) -> &str {
        field(&self.0, "role").and_then(Cell::text).unwrap_or_default()
    }

    /// What is said; empty where nothing is, as in a turn that only calls tools.
    pub fn content(&self) -> &str {
        field(&self.0, "content").and_then(Cell::text).unwrap_or_default()
    }

    /// All its fields.
    pub fn fields(&self) -> &[(String, Cell)] {
        &self.0
    }

    /// The fields as a template sees them: what was thought goes by each of the names that templates know, as in Transformers.
    pub(crate) fn for_template(&self) -> Vec<(&str, &Cell)> {
        let thought = THOUGHTS.iter().find_map(|name| field(&self.0, name));
        let own = self.0.iter().map(|(name, cell)| (name.as_str(), cell));
        let Some(thought) = thought else { return own.collect() };
        let mut fields = Vec::with_capacity(self.0.len() + 2);
        if field(&self.0, "thinking").is_none() {
            fields.push(("thinking", thought));
        }
        fields.extend(own);
        if field(&self.0, "reasoning_content").is_none() {
            fields.push(("reasoning_content", thought));
        }
        fields
    }

    /// The same turn with something else to say.
    pub(crate) fn saying(&self, content: &str) -> Message {
        let mut fields = self.0.clone();
        fields.iter_mut().filter(|(name, _)| name == "content").for_each(|(_, cell)| *cell = Cell::from(content));
        Message(fields)
    }

    /// Whether it says or calls something.
    pub(crate) fn is_empty(&self) -> bool {
        let calls = field(&self.0, "tool_calls").and_then(Cell::list).is_some_and(|calls| !calls.is_empty());
        self.content().trim().is_empty() && !calls
    }
}

/// The names of what the assistant thought before it spoke, the first that is there counting.
const THOUGHTS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

impl From<Vec<Message>> for Conversation {
    fn from(turns: Vec<Message>) -> Conversation {
        Conversation { turns, fields: Vec::new(), from: 0 }
    }
}
