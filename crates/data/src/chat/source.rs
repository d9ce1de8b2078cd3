//! A template's text, made ready for MiniJinja: line ends as Jinja reads them, the blocks that Transformers adds, and Python's `%`.

/// The filter that marks what is scored.
pub(super) const SCORED: &str = "bonfire_scored";
/// The filter that a `%` after a string becomes.
pub(super) const PERCENT: &str = "bonfire_percent";
/// Where what is scored begins: no character, so that no text holds it.
pub(super) const BEGINS: char = '\u{fdd0}';
/// Where it ends.
pub(super) const ENDS: char = '\u{fdd1}';

/// The text that MiniJinja reads.
pub(super) fn prepared(template: &str) -> String {
    let template = template.replace("\r\n", "\n").replace('\r', "\n");
    let (mut out, mut rest) = (String::with_capacity(template.len()), template.as_str());
    while let Some(at) = rest.find("{%").into_iter().chain(rest.find("{{")).chain(rest.find("{#")).min() {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = match &rest[..2] {
            "{#" => rest.find("#}").map(|end| end + 2),
            open => tag_end(rest, if open == "{%" { "%}" } else { "}}" }),
        };
        let Some(end) = end else { break };
        let tag = &rest[..end];
        if tag.starts_with("{#") {
            out.push_str(tag)
        } else {
            out.push_str(&with_percent(&with_filter(tag)))
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

/// Where a tag ends, strings in it passed over.
fn tag_end(text: &str, close: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 2;
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'\'' | b'"') => at = string_end(bytes, at, quote)?,
            _ if text.is_char_boundary(at) && text[at..].starts_with(close) => return Some(at + 2),
            _ => at += 1,
        }
    }
    None
}

/// The byte after the string that begins at `at`.
fn string_end(bytes: &[u8], at: usize, quote: u8) -> Option<usize> {
    let mut at = at + 1;
    while *bytes.get(at)? != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    Some(at + 1)
}

/// `{% generation %}` as a block whose text a filter marks.
fn with_filter(tag: &str) -> String {
    let Some(inner) = tag.strip_prefix("{%").and_then(|tag| tag.strip_suffix("%}")) else { return tag.to_owned() };
    let bare = inner.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
    match bare {
        "generation" => tag.replacen("generation", &format!("filter {SCORED}"), 1),
        "endgeneration" => tag.replacen("endgeneration", "endfilter", 1),
        _ => tag.to_owned(),
    }
}

/// `"text" % value` as a filter: MiniJinja's `%` is for numbers.
fn with_percent(tag: &str) -> String {
    let bytes = tag.as_bytes();
    let (mut out, mut copied, mut at) = (String::new(), 0, 2);
    while at < bytes.len() {
        let quote = bytes[at];
        if quote != b'\'' && quote != b'"' {
            at += 1;
            continue;
        }
        let Some(end) = string_end(bytes, at, quote) else { break };
        at = end;
        let blank = |from: usize| from + bytes[from..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let sign = blank(end);
        if bytes.get(sign) != Some(&b'%') || bytes.get(sign + 1) == Some(&b'}') {
            continue;
        }
        let operand = blank(sign + 1);
        let Some(stop) = operand_end(bytes, operand) else { continue };
        out.push_str(&tag[copied..end]);
        out.push_str(&format!("|{PERCENT}({})", &tag[operand..stop]));
        copied = stop;
        at = stop;
    }
    out.push_str(&tag[copied..]);
    out
}

/// The byte after a value: a name, number, string or bracket with what hangs on it (`.name`, `[…]`, `(…)`, `|filter`).
fn operand_end(bytes: &[u8], start: usize) -> Option<usize> {
    let word =
        |from: usize| from + bytes[from..].iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
    let mut at = match *bytes.get(start)? {
        b'(' | b'[' | b'{' => bracket_end(bytes, start)?,
        quote @ (b'\'' | b'"') => string_end(bytes, start, quote)?,
        _ => word(start),
    };
    if at == start {
        return None;
    }
    loop {
        at = match bytes.get(at) {
            Some(b'.' | b'|') => word(at + 1),
            Some(b'[' | b'(') => bracket_end(bytes, at)?,
            _ => return Some(at),
        };
    }
}

/// The byte after the bracket that begins at `at`.
fn bracket_end(bytes: &[u8], at: usize) -> Option<usize> {
    let (mut depth, mut at) = (0, at);
    loop {
        match *bytes.get(at)? {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            quote @ (b'\'' | b'"') => {
                at = string_end(bytes, at, quote)?;
                continue;
            }
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_rewritten_where_they_must_be() {
        for (template, expected) in [
            ("a\r\nb\rc", "a\nb\nc"),
            ("{%- generation -%}x{% endgeneration %}", "{%- filter bonfire_scored -%}x{% endfilter %}"),
            ("{{ '%s' % x }}", "{{ '%s'|bonfire_percent(x) }}"),
            ("{{ '%s-%d' % (a, b[1]) ~ 'c' }}", "{{ '%s-%d'|bonfire_percent((a, b[1])) ~ 'c' }}"),
            ("{{ '%s' % m.f(')') | trim }}", "{{ '%s'|bonfire_percent(m.f(')')) | trim }}"),
            ("{{ 7 % 2 }}{{ '%}' }}%s", "{{ 7 % 2 }}{{ '%}' }}%s"),
            ("{# '%s' % x #}{{ 'é' }}", "{# '%s' % x #}{{ 'é' }}"),
            ("{% if x == 'a' %}", "{% if x == 'a' %}"),
            ("{{ 'open", "{{ 'open"),
        ] {
            assert_eq!(prepared(template), expected, "{template}");
        }
    }
}
