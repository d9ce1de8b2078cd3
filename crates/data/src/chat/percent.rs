//! Python's `"text" % values`, as far as templates use it.

use minijinja::value::{StringInput, Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// Digits and blanks that a field may ask for.
const WIDEST: usize = 64;

/// The text with its fields filled in.
pub(super) fn format(text: StringInput<'_>, values: Value) -> Result<String, Error> {
    let wrong = |what: String| Error::new(ErrorKind::InvalidOperation, what);
    // A list stands for itself in Python and a tuple for several values; in a template several are nearly always meant.
    let many: Vec<Value> = match values.kind() {
        ValueKind::Seq => values.try_iter()?.collect(),
        _ => vec![values.clone()],
    };
    let mut next = many.into_iter();
    let (mut out, mut chars) = (String::new(), text.as_str().chars().peekable());
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut name = None;
        if chars.next_if_eq(&'(').is_some() {
            name = Some(chars.by_ref().take_while(|c| *c != ')').collect::<String>());
        }
        let mut flags = String::new();
        while let Some(flag) = chars.next_if(|c| "-+0# ".contains(*c)) {
            flags.push(flag);
        }
        let number = |chars: &mut std::iter::Peekable<std::str::Chars>| {
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            digits.parse::<usize>().ok()
        };
        let width = number(&mut chars).unwrap_or(0);
        let precision = chars.next_if_eq(&'.').map(|_| number(&mut chars).unwrap_or(0));
        if width > WIDEST || precision.is_some_and(|digits| digits > WIDEST) {
            return Err(wrong(format!("a field of {width} characters; at most {WIDEST} are written")));
        }
        let kind = chars.next().ok_or_else(|| wrong("incomplete format".to_owned()))?;
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match name {
            Some(name) => values.get_attr(&name)?,
            None => next.next().ok_or_else(|| wrong("not enough arguments for format string".to_owned()))?,
        };
        let field = match kind {
            's' | 'r' if precision.is_some() => value.to_string().chars().take(precision.unwrap_or(0)).collect(),
            's' => value.to_string(),
            'r' => format!("{value:?}"),
            'd' | 'i' | 'u' => (f64::try_from(value.clone())?.trunc() as i64).to_string(),
            'f' | 'F' => format!("{:.*}", precision.unwrap_or(6), f64::try_from(value.clone())?),
            'x' => format!("{:x}", i64::try_from(value.clone())?),
            other => return Err(wrong(format!("unsupported format character {other:?}"))),
        };
        let signed = flags.contains('+') && kind != 's' && !field.starts_with('-');
        let field = if signed { format!("+{field}") } else { field };
        let missing = width.saturating_sub(field.chars().count());
        match (flags.contains('-'), flags.contains('0') && kind != 's') {
            (true, _) => out.push_str(&format!("{field}{}", " ".repeat(missing))),
            (false, true) => {
                let (sign, digits) = field.split_at(usize::from(field.starts_with(['-', '+'])));
                out.push_str(&format!("{sign}{}{digits}", "0".repeat(missing)));
            }
            (false, false) => out.push_str(&format!("{}{field}", " ".repeat(missing))),
        }
    }
    Ok(out)
}
