//! Patterns of tables, as in `tenant_*.products`: `*` is any part of a name, the empty one too.

/// Whether a spelled name, or a part of one, stands for all that match it.
pub fn is_pattern(spelled: &str) -> bool {
    spelled.contains('*')
}

/// Whether `pattern` matches all of `text`.
pub fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        // The first place will do: what follows has the more room.
        let Some((_, after)) = text.split_once(part) else { return false };
        text = after;
    }
    true
}

/// Schema and name of a table that is spelled `schema.table`, a part with a dot in it in double quotes.
pub fn parts(spelled: &str) -> Option<(String, String)> {
    let (schema, rest) = part(spelled)?;
    let (name, rest) = part(rest.strip_prefix('.')?)?;
    rest.is_empty().then_some((schema, name))
}

fn part(text: &str) -> Option<(String, &str)> {
    let Some(inside) = text.strip_prefix('"') else {
        let end = text.find('.').unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        return (!name.is_empty()).then(|| (name.to_owned(), rest));
    };
    let mut name = String::new();
    let mut rest = inside;
    loop {
        let (before, after) = rest.split_once('"')?;
        name.push_str(before);
        match after.strip_prefix('"') {
            // Two quotes inside of quotes are one.
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return (!name.is_empty()).then_some((name, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_part() {
        for (pattern, text) in
            [("a*", "a"), ("a*", "abc"), ("*", ""), ("a*b*c", "axbxbc"), ("*b", "bb"), ("a", "a")]
        {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("a*", "ba"), ("a*b", "a"), ("a*a", "a"), ("a*b*c", "acb"), ("a", "A"), ("a_b", "axb")]
        {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }
}
