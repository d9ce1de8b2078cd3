//! Today, as templates see it: always Friday, 26 July 2024, midnight. What a model learns must not depend on the day.

/// The day in the form asked for, by the codes of C's `strftime`.
pub(super) fn strftime_now(format: String) -> String {
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        // A minus takes the leading zero away.
        let mut code = chars.next();
        let short = code == Some('-');
        if short {
            code = chars.next();
        }
        let text = match code {
            Some('d' | 'e') => "26",
            Some('m') if short => "7",
            Some('m') => "07",
            Some('b' | 'h') => "Jul",
            Some('B') => "July",
            Some('Y' | 'G') => "2024",
            Some('y' | 'g') => "24",
            Some('C') => "20",
            Some('a') => "Fri",
            Some('A') => "Friday",
            Some('u' | 'w') => "5",
            Some('j') => "208",
            Some('V') => "30",
            Some('H' | 'M' | 'S') if short => "0",
            Some('H' | 'M' | 'S') => "00",
            Some('I') => "12",
            Some('p') => "AM",
            Some('f') => "000000",
            Some('F') => "2024-07-26",
            Some('D' | 'x') => "07/26/24",
            Some('T' | 'X') => "00:00:00",
            Some('R') => "00:00",
            Some('c') => "Fri Jul 26 00:00:00 2024",
            Some('n') => "\n",
            Some('t') => "\t",
            Some('%') => "%",
            // Without a time zone these are empty.
            Some('z' | 'Z') => "",
            Some(other) => {
                out.push('%');
                if short {
                    out.push('-');
                }
                out.push(other);
                continue;
            }
            None => "%",
        };
        out.push_str(text);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::strftime_now;

    #[test]
    fn codes_are_those_of_python() {
        // datetime(2024, 7, 26).strftime(…)
        for (format, expected) in [
            ("%d %b %Y", "26 Jul 2024"),
            ("%-d %B %y, %A %a", "26 July 24, Friday Fri"),
            ("%Y-%m-%d %H:%M:%S", "2024-07-26 00:00:00"),
            ("%-m/%j %I %p %u %V 100%%", "7/208 12 AM 5 30 100%"),
            ("%F %T", "2024-07-26 00:00:00"),
            ("today", "today"),
        ] {
            assert_eq!(strftime_now(format.to_owned()), expected);
        }
    }
}
