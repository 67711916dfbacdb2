//! The words of a text, as far as advice needs them.

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A word, with what its parentheses hold.
    Word(String),
    /// The path, and whether it may be missing.
    Include(String, bool),
    Open,
    Close,
    End,
}

/// None: a quote or a parenthesis does not end, or there is a condition.
pub(super) fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    // After these comes a name, which may hold braces.
    let mut name_follows = false;
    loop {
        rest = rest.trim_start();
        let Some(c) = rest.chars().next() else {
            return Some(tokens);
        };
        let keyword = rest.strip_prefix('#').unwrap_or(rest);
        if let Some(after) = keyword.strip_prefix("include")
            && after.starts_with([' ', '\t'])
        {
            let (path, optional, after) = included(after)?;
            tokens.push(Token::Include(path, optional));
            rest = after;
            continue;
        }
        let length = match c {
            '#' => {
                rest = rest.split_once('\n').map_or("", |(_, next)| next);
                continue;
            }
            ',' | '{' | '}' if !name_follows => {
                tokens.push(match c {
                    ',' => Token::End,
                    '{' => Token::Open,
                    _ => Token::Close,
                });
                rest = &rest[1..];
                continue;
            }
            _ => word(rest, name_follows)?,
        };
        let (word, after) = rest.split_at(length);
        if matches!(word, "if" | "else") {
            return None;
        }
        name_follows = matches!(word, "profile" | "hat" | "->");
        tokens.push(Token::Word(word.to_owned()));
        rest = after;
    }
}

/// The length of the word that `text` begins with.
fn word(text: &str, is_name: bool) -> Option<usize> {
    // Braces and inner commas belong to a path, a name or a value.
    let mut holds_braces = is_name || is_path(text) || text.starts_with('^');
    let mut parentheses = 0_usize;
    let mut quoted = false;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
            continue;
        }
        match c {
            '\\' => escaped = true,
            '"' => {
                quoted = !quoted;
                if !quoted && parentheses == 0 {
                    return Some(at + 1);
                }
            }
            _ if quoted => {}
            '(' if !is_path(text) => parentheses += 1,
            ')' if parentheses > 0 => {
                parentheses -= 1;
                if parentheses == 0 {
                    return Some(at + 1);
                }
            }
            _ if parentheses > 0 => {}
            _ if c.is_whitespace() => return Some(at),
            ',' => {
                let next = text[at + 1..].chars().next();
                if !holds_braces || next.is_none_or(char::is_whitespace) {
                    return Some(at);
                }
            }
            '=' => holds_braces = true,
            '{' | '}' if !holds_braces => return Some(at),
            _ => {}
        }
    }
    (!quoted && parentheses == 0).then_some(text.len())
}

/// Path, whether it may be missing, and the rest, of what follows `include`.
fn included(text: &str) -> Option<(String, bool, &str)> {
    let mut rest = text.trim_start();
    let mut optional = false;
    if let Some(after) = rest
        .strip_prefix("if")
        .and_then(|after| after.trim_start().strip_prefix("exists"))
    {
        optional = true;
        rest = after.trim_start();
    }
    let end = match rest.chars().next()? {
        '<' => rest.find('>')? + 1,
        '"' => rest[1..].find('"')? + 2,
        _ => rest.find(char::is_whitespace).unwrap_or(rest.len()),
    };
    let (path, rest) = rest.split_at(end);
    Some((
        path.trim_matches(['<', '>', '"', ' ']).to_owned(),
        optional,
        rest,
    ))
}

/// Whether braces in `word` belong to it.
pub(super) fn is_path(word: &str) -> bool {
    word.starts_with(['/', '@', '"'])
}
