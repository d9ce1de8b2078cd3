//! Addresses on the web: where a redirect leads, and whom the token is for.

use ureq::http::Uri;

use crate::repo_name::shown;

/// An address of `http` or `https` with a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(Uri);

impl Address {
    /// Reads an address; errors go on from its name.
    ///
    /// # Errors
    /// Another scheme, no host, a password in it, or no address at all.
    pub fn parse(text: &str) -> Result<Address, String> {
        let uri: Uri = text.parse().map_err(|_| format!("{} is no address", shown(text)))?;
        let web = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty());
        if !web {
            return Err(format!("{} is no address that begins with https:// or http://", shown(text)));
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            // What stands there is a secret and not to be shown.
            return Err("the address has a user or a password in it, which is not supported".to_owned());
        }
        Ok(Address(uri))
    }

    /// Where `Location: location` leads from here.
    ///
    /// # Errors
    /// No address, another scheme, or plain http after https.
    pub fn follow(&self, location: &str) -> Result<Address, String> {
        let (scheme, host) = (self.scheme(), self.0.authority().map_or("", |authority| authority.as_str()));
        let path = self.0.path();
        let folder = &path[..path.rfind('/').map_or(0, |at| at + 1)];
        let whole = match location {
            whole if whole.contains("://") => whole.to_owned(),
            elsewhere if elsewhere.starts_with("//") => format!("{scheme}:{elsewhere}"),
            here if here.starts_with('/') => format!("{scheme}://{host}{here}"),
            beside => format!("{scheme}://{host}{folder}{beside}"),
        };
        let next = Address::parse(&whole)?;
        if self.scheme() == "https" && next.scheme() != "https" {
            Err(format!("{} is not encrypted, though the address before was", shown(&whole)))
        } else {
            Ok(next)
        }
    }

    /// Whether both are the same host by the same scheme and port.
    pub fn is_of(&self, other: &Address) -> bool {
        let place = |address: &Address| {
            let host = address.0.host().unwrap_or_default().to_ascii_lowercase();
            let port = address.0.port_u16().unwrap_or(if address.scheme() == "https" { 443 } else { 80 });
            (address.scheme().to_owned(), host, port)
        };
        place(self) == place(other)
    }

    fn scheme(&self) -> &str {
        self.0.scheme_str().unwrap_or_default()
    }

    /// As ureq takes it.
    pub fn uri(&self) -> &Uri {
        &self.0
    }

    /// Scheme and host, to be shown: paths of redirects hold signatures.
    pub fn host(&self) -> String {
        format!("{}://{}", self.scheme(), self.0.authority().map_or("", |authority| authority.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).expect(text)
    }

    #[test]
    fn addresses_are_of_the_web() {
        assert_eq!(address("https://hub.example:8443/a?b=c").host(), "https://hub.example:8443");
        for wrong in ["", "x", "/x", "file:///etc/passwd", "ftp://a/b", "https://", "http:///x", "https://a b/"] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
        let secret = Address::parse("https://me:hunter2@hub.example").expect_err("a password");
        assert!(!secret.contains("hunter2"), "{secret}");
    }

    #[test]
    fn redirects_lead_where_browsers_go() {
        let from = address("https://a.example/x/y?z=1");
        for (location, to) in [
            ("/p?q=1", "https://a.example/p?q=1"),
            ("w", "https://a.example/x/w"),
            ("//b.example/p", "https://b.example/p"),
            ("https://b.example/p", "https://b.example/p"),
        ] {
            assert_eq!(from.follow(location), Ok(address(to)), "{location}");
        }
        for wrong in ["http://a.example/p", "file:///etc/passwd", "gopher://a/", "https://"] {
            assert!(from.follow(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_same_place_is_scheme_host_and_port() {
        let of = |a: &str, b: &str| address(a).is_of(&address(b));
        assert!(of("https://Hub.example/a", "https://hub.example:443/b"));
        assert!(!of("https://hub.example/a", "https://hub.example:444/a"));
        assert!(!of("http://127.0.0.1:1/a", "http://localhost:1/a"));
        assert!(!of("http://hub.example:443/", "https://hub.example/"));
        assert!(!of("https://hub.example/", "https://hub.example.evil.example/"));
    }
}
