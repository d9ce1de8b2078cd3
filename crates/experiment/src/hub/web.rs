//! Asking over HTTP: few redirects, nobody waited for without end, the token for one host alone.

use std::time::Duration;

use anyhow::Result;
use thiserror::Error;
use ureq::http::Response;
use ureq::{Agent, Body};

use super::address::Address;
use super::settings;
use crate::repo_name::shown;
use crate::user_error::UserError;

/// Redirects that are followed for one file. The Hub needs two.
const REDIRECTS: usize = 5;

/// Bytes that have to come while [`Web::patience`] runs, so that nobody is kept by a byte now and then.
pub const LEAST: u64 = 4096;

/// Why something was not fetched.
#[derive(Debug, Error)]
pub enum Trouble {
    /// The Hub answers with this status.
    #[error("the Hub answers {0}")]
    Status(u16),
    /// No connection, or one that broke.
    #[error("{0}")]
    Broken(String),
    /// An answer that is not believed: what is wrong with it.
    #[error("{0}")]
    Refused(String),
    /// The cache cannot be written.
    #[error(transparent)]
    Disk(anyhow::Error),
}

/// A connection to one endpoint.
pub struct Web {
    agent: Agent,
    endpoint: Address,
    /// As text, without a stroke at the end.
    base: String,
    token: Option<String>,
    /// How long to wait for more.
    pub patience: Duration,
}

/// A success, or a redirect away from the endpoint.
pub struct Answer {
    pub response: Response<Body>,
}

/// How far redirects are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// To the end.
    All,
    /// As long as they stay with the endpoint: the answer may be the redirect that leaves it.
    Own,
}

impl Web {
    /// As the environment says.
    ///
    /// # Errors
    /// An endpoint that is no address, a token that cannot be one.
    pub fn open() -> Result<Web> {
        let (base, patience) = (settings::endpoint(), settings::patience());
        let endpoint = Address::parse(&base).map_err(|what| {
            UserError::new(format!("HF_ENDPOINT: {what}")).help("give it as https://host, or leave it out")
        })?;
        let agent = Agent::config_builder()
            .user_agent(concat!("bonfire/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            // Each redirect is looked at here.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(patience))
            .timeout_connect(Some(patience))
            .timeout_recv_response(Some(patience))
            .timeout_per_read(Some(patience))
            .build()
            .new_agent();
        Ok(Web { agent, endpoint, base, token: settings::token()?, patience })
    }

    /// Asks for `path` of the endpoint.
    ///
    /// # Errors
    /// No answer in time, a status that is no success, redirects that lead nowhere.
    pub fn ask(&self, head: bool, path: &str, from: u64, follow: Follow) -> Result<Answer, Trouble> {
        let mut address = Address::parse(&format!("{}{path}", self.base)).map_err(Trouble::Refused)?;
        for _ in 0..=REDIRECTS {
            let response = self.once(head, &address, from)?;
            let status = response.status();
            if !status.is_redirection() {
                return match status.as_u16() {
                    200 | 206 => Ok(Answer { response }),
                    code => Err(Trouble::Status(code)),
                };
            }
            let host = address.host();
            let location = response.headers().get("location").map(|value| String::from_utf8_lossy(value.as_bytes()));
            let Some(location) = location else {
                return Err(Trouble::Refused(format!("{host} answers {} and does not say where to", status.as_u16())));
            };
            let next = address
                .follow(&location)
                .map_err(|what| Trouble::Refused(format!("{host} leads to another place, but {what}")))?;
            if follow == Follow::Own && !next.is_of(&self.endpoint) {
                return Ok(Answer { response });
            }
            address = next;
        }
        Err(Trouble::Refused(format!(
            "{} leads from one place to the next, more than {REDIRECTS} times",
            self.endpoint.host()
        )))
    }

    fn once(&self, head: bool, address: &Address, from: u64) -> Result<Response<Body>, Trouble> {
        let request = if head { self.agent.head(address.uri()) } else { self.agent.get(address.uri()) };
        // Sizes are those of the files.
        let mut request = request.header("Accept-Encoding", "identity");
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        if let Some(token) = self.token.as_ref().filter(|_| address.is_of(&self.endpoint)) {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        request.call().map_err(|error| Trouble::Broken(format!("{}: {error}", address.host())))
    }
}

impl Answer {
    /// A header in words.
    ///
    /// # Errors
    /// One that is not text.
    pub fn header(&self, name: &str) -> Result<Option<&str>, Trouble> {
        let odd = |text: &[u8]| {
            Trouble::Refused(format!("its {name} is {}, which is no text", shown(&String::from_utf8_lossy(text))))
        };
        let value = self.response.headers().get(name);
        value.map(|value| value.to_str().map_err(|_| odd(value.as_bytes()))).transpose()
    }

    /// A header that is a number.
    ///
    /// # Errors
    /// One that is none.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Trouble> {
        let odd = |text: &str| Trouble::Refused(format!("its {name} is {}, which is no number", shown(text)));
        self.header(name)?.map(|text| text.trim().parse().map_err(|_| odd(text))).transpose()
    }
}
