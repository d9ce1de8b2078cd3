//! Names that become parts of paths and addresses: what is not plain is refused.

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Model,
    Dataset,
}

impl Kind {
    /// As addresses and folders say it, without the `s` at the end.
    pub(super) fn word(self) -> &'static str {
        match self {
            Kind::Model => "model",
            Kind::Dataset => "dataset",
        }
    }
}

/// `org/name` and a revision: a branch, a tag or a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoName {
    pub(super) id: String,
    pub(super) revision: String,
}

impl RepoName {
    /// What a name must be.
    pub const FORM: &str = "must be \"hf:org/name\" or \"hf:org/name@revision\", of letters, digits, `-`, `_` and `.`";

    /// Reads `org/name` or `org/name@revision`; `None` for anything else, above all for what could lead out of the cache.
    pub fn parse(text: &str) -> Option<RepoName> {
        let (id, revision) = text.split_once('@').unwrap_or((text, "main"));
        let parts = |text: &str| text.split('/').all(is_plain);
        let fits = id.split('/').count() == 2 && parts(id) && parts(revision);
        fits.then(|| RepoName { id: id.to_owned(), revision: revision.to_owned() })
    }

    /// What the name of a data set must be.
    pub const DATA_FORM: &str = "must be \"hf:org/name\", with a folder of it as \"hf:org/name/folder\" or a revision as \"hf:org/name@revision\", \
                                 of letters, digits, `-`, `_` and `.`";

    /// Reads the name of a data set, which may go on into folders of the repository: `org/name/folder@revision`.
    pub fn parse_data(text: &str) -> Option<(RepoName, String)> {
        let (path, revision) = text.split_once('@').unwrap_or((text, "main"));
        let mut parts = path.split('/');
        let id = [parts.next()?, parts.next()?].join("/");
        let folder = parts.collect::<Vec<_>>();
        let name = RepoName::parse(&format!("{id}@{revision}"))?;
        folder.iter().all(|part| is_plain(part)).then(|| (name, folder.join("/")))
    }

    /// `org/name`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The repository's folder below the cache, `models--org--name`.
    pub(super) fn folder(&self, kind: Kind) -> String {
        format!("{}s--{}", kind.word(), self.id.replace('/', "--"))
    }
}

/// Whether the text can be one part of a path and nothing else; `--` stands for the slash in the cache.
pub(super) fn is_plain(part: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let leads_out = part.starts_with(['.', '-']) || part.contains("..") || part.contains("--");
    !part.is_empty() && part.len() <= 128 && !leads_out && part.chars().all(fits)
}

/// Whether the text can name a file of a snapshot, some folders down at most.
pub(super) fn is_file_path(path: &str) -> bool {
    path.split('/').count() <= 4 && path.split('/').all(is_file_name)
}

/// Whether the text can name a file or folder of a snapshot.
fn is_file_name(name: &str) -> bool {
    let odd = |c: char| c.is_control() || "/\\:".contains(c);
    !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && !name.contains(odd)
}

/// What an endpoint sent, to be shown: escaped and cut.
pub(super) fn shown(text: &str) -> String {
    let cut: String = text.chars().take(60).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    format!("{cut:?}{more}")
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_two_plain_parts() {
        let name = RepoName::parse("TinyLlama/TinyLlama-1.1B-Chat-v1.0").expect("a name");
        assert_eq!((name.id(), name.revision.as_str()), ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "main"));
        assert_eq!(name.folder(Kind::Dataset), "datasets--TinyLlama--TinyLlama-1.1B-Chat-v1.0");
        let data = |text: &str| RepoName::parse_data(text).map(|(name, folder)| (name.id, name.revision, folder));
        let told =
            |id: &str, revision: &str, folder: &str| Some((id.to_owned(), revision.to_owned(), folder.to_owned()));
        assert_eq!(data("nyu-mll/glue/mnli"), told("nyu-mll/glue", "main", "mnli"));
        assert_eq!(data("a/b@v1"), told("a/b", "v1", ""));
        assert_eq!(data("a/b/c/d@v1"), told("a/b", "v1", "c/d"));
        assert!(["a", "a/b/", "a/b/../c", "a/b/.c", "a/b//c"].iter().all(|wrong| data(wrong).is_none()));
        assert_eq!(RepoName::parse("a/b@refs/pr/1").expect("a name").revision, "refs/pr/1");
        for wrong in [
            "foo",
            "",
            "/",
            "a/",
            "/b",
            "a/b/c",
            "../b",
            "a/..",
            "a/b@",
            "a/b@../../x",
            "a/b@/x",
            "a b/c",
            "a\\b/c",
            "a--b/c",
        ] {
            assert_eq!(RepoName::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn files_are_named_without_a_way_out() {
        for name in ["model-00001-of-00002.safetensors", "a b.json", "a--b.txt"] {
            assert!(is_file_name(name), "{name}");
        }
        for path in ["data/train-00000-of-00001.parquet", "mnli/a b.json", "a/b/c/d.csv"] {
            assert!(is_file_path(path), "{path}");
        }
        for path in ["", "/a", "a/", "a//b", "../x", "a/../b", "a/.hidden", "a/b\\c", "a/b/c/d/e.csv"] {
            assert!(!is_file_path(path), "{path:?}");
        }
        for name in ["", ".", "..", "../x", "a/b", "a\\b", "C:x", ".hidden", "a\nb", "a\u{1b}b"] {
            assert!(!is_file_name(name), "{name:?}");
        }
    }

    #[test]
    fn what_is_shown_is_short_and_escaped() {
        assert_eq!(shown("a\u{1b}]0;x\u{7}"), "\"a\\u{1b}]0;x\\u{7}\"");
        assert!(shown(&"x".repeat(1000)).len() < 80);
    }

    proptest! {
        #![proptest_config(crate::hostile::config())]

        #[test]
        fn no_name_leads_out_of_the_cache(text in "[a-z./@\\\\ \\-\u{0}]{0,16}") {
            if let Some(name) = RepoName::parse(&text) {
                let cache = Path::new("cache");
                prop_assert!(cache.join(name.folder(Kind::Model)).parent() == Some(cache), "{}", text);
                let parts = Path::new(&name.revision).components();
                prop_assert!(parts.into_iter().all(|part| matches!(part, Component::Normal(_))), "{}", text);
            }
        }
    }
}
