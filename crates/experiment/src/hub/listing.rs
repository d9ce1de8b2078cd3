//! Which files a repository has at a revision, and which commit that is.

use std::io::Read;
use std::time::Instant;

use serde::Deserialize;

use super::web::{Follow, Trouble, Web};
use crate::repo_name::{is_plain, shown};

/// Bytes that a listing may have.
const MOST: usize = 10_000_000;

/// A repository at one commit.
#[derive(Debug)]
pub struct Listing {
    /// A plain name.
    pub commit: String,
    /// Names as the Hub gives them.
    pub files: Vec<String>,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// Asks for the listing at `path` of the endpoint.
///
/// # Errors
/// No answer, or one that is no listing.
pub fn read(web: &Web, path: &str) -> Result<Listing, Trouble> {
    let answer = web.ask(false, path, 0, Follow::All)?;
    let (mut text, mut part, begin) = (Vec::new(), vec![0; 1 << 16], Instant::now());
    let mut body = answer.response.into_body().into_reader();
    loop {
        let got = body.read(&mut part).map_err(|error| Trouble::Broken(format!("the listing broke off: {error}")))?;
        text.extend_from_slice(&part[..got]);
        if text.len() > MOST {
            return Err(Trouble::Refused(format!("its list of files has more than {MOST} bytes")));
        }
        if got == 0 {
            return parse(&text);
        }
        // Some kilobytes, or for the largest repositories megabytes: what takes so long never ends.
        if begin.elapsed() > 4 * web.patience {
            return Err(Trouble::Broken("the list of files comes too slowly".into()));
        }
    }
}

fn parse(text: &[u8]) -> Result<Listing, Trouble> {
    let info: Info = serde_json::from_slice(text)
        .map_err(|error| Trouble::Refused(format!("its list of files cannot be read: {error}")))?;
    // The answer becomes paths in the cache.
    if is_plain(&info.sha) {
        Ok(Listing { commit: info.sha, files: info.siblings.into_iter().map(|file| file.rfilename).collect() })
    } else {
        Err(Trouble::Refused(format!("the commit is {}, which is none", shown(&info.sha))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_commit_that_leads_out_is_refused() {
        let of = |sha: &str| parse(format!("{{\"sha\": \"{sha}\", \"siblings\": []}}").as_bytes());
        assert_eq!(of("0123456789abcdef").expect("plain").commit, "0123456789abcdef");
        for sha in ["", "..", "../x", "/etc", "a/b", "\\u001b]0;x"] {
            assert!(matches!(of(sha), Err(Trouble::Refused(_))), "{sha}");
        }
    }

    proptest! {
        #![proptest_config(crate::hostile::config())]

        #[test]
        fn any_listing(text in crate::hostile::mutated_json(
            r#"{"sha": "0123456789abcdef", "siblings": [{"rfilename": "config.json"}], "private": false}"#)) {
            if let Ok(listing) = parse(&text) {
                prop_assert!(is_plain(&listing.commit));
            }
        }
    }
}
