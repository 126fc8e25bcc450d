//! A model's own chat template, rendered as transformers renders it.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// A Jinja template, and the names of the tokens that it may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatTemplate {
    /// Jinja.
    pub source: String,
    /// `bos_token`, `eos_token` and their like, by name.
    pub tokens: BTreeMap<String, String>,
}

/// One turn of a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Message<'a> {
    /// `system` or `user`.
    pub role: &'a str,
    /// What is said.
    pub content: &'a str,
}

impl ChatTemplate {
    /// The text of a chat up to where the model would answer; the reason where the template refuses.
    ///
    /// The environment is that of `apply_chat_template` in transformers 5, with one exception: `strftime_now` answers
    /// for 26 July 2024, the day that the templates which ask for one fall back to. A caption would otherwise have
    /// other states every day.
    pub fn render(&self, messages: &[Message]) -> Result<String, String> {
        let source = without_generation_marks(&self.source);
        let environment = environment().map_err(|e| reason(&e))?;
        let template = environment.template_from_str(&source).map_err(|e| reason(&e))?;
        let chat = context! {
            messages => Serde(messages),
            add_generation_prompt => true,
            tools => (),
            documents => (),
            ..Value::from(Serde(&self.tokens))
        };
        template.render(chat).map_err(|e| reason(&e))
    }
}

fn environment<'source>() -> Result<Environment<'source>, Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    environment.set_syntax(syntax);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| fixed_date(&format));
    environment.add_filter("tojson", to_json);
    Ok(environment)
}

/// The innermost message, without the template's lines.
fn reason(error: &Error) -> String {
    let place = error.line().map_or_else(String::new, |line| format!(" (line {line})"));
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    format!("{detail}{place}")
}

/// `{% generation %}` marks what an assistant wrote, for training; in Jinja without that extension, it is no tag.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::new();
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%") {
        let Some((inside, after)) = tag.split_once("%}") else {
            break;
        };
        let name = inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let inside = match name {
            "generation" => inside.replace(name, "if true"),
            "endgeneration" => inside.replace(name, "endif"),
            _ => inside.to_owned(),
        };
        out.push_str(before);
        out.push_str("{%");
        out.push_str(&inside);
        out.push_str("%}");
        rest = after;
    }
    out + rest
}

/// Python's `strftime` for 26 July 2024, 0:00.
fn fixed_date(format: &str) -> Result<String, Error> {
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let directive = chars.next();
        out.push_str(match directive {
            Some('d') => "26",
            Some('-') => match chars.next() {
                Some('d') => "26",
                Some('m') => "7",
                _ => return Err(unknown_directive(format)),
            },
            Some('b' | 'h') => "Jul",
            Some('B') => "July",
            Some('m') => "07",
            Some('Y') => "2024",
            Some('y') => "24",
            Some('a') => "Fri",
            Some('A') => "Friday",
            Some('j') => "208",
            Some('H' | 'M' | 'S') => "00",
            Some('F') => "2024-07-26",
            Some('%') => "%",
            _ => return Err(unknown_directive(format)),
        });
    }
    Ok(out)
}

fn unknown_directive(format: &str) -> Error {
    let message = format!("strftime_now(`{format}`) has a directive that is not known here");
    Error::new(ErrorKind::InvalidOperation, message)
}

/// Python's `json.dumps(value, ensure_ascii=False)`: unlike Jinja's own filter, nothing is escaped for HTML.
#[expect(clippy::needless_pass_by_value, reason = "filters take their options by value")]
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    let mut out = Vec::new();
    let written = match indent {
        Some(spaces) => {
            let indent = " ".repeat(spaces);
            let format = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut out, format))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut out, PythonFormatter)),
    };
    written.map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    String::from_utf8(out).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))
}

/// A space after each comma and colon.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn render(source: &str) -> Result<String, String> {
        let template = ChatTemplate {
            source: source.to_owned(),
            tokens: [("bos_token".to_owned(), "<s>".to_owned())].into(),
        };
        let messages = [("system", " be <brief> "), ("user", "hi")].map(|(role, content)| Message { role, content });
        template.render(&messages)
    }

    #[test]
    fn python_methods_slices_and_loop_controls_work() {
        let source = "{{ bos_token }}{% for m in messages[::-1] %}{% if loop.index > 5 %}{% break %}{% endif %}\
                      {{ m.role.upper() + ':' + m['content'].strip() }};{% endfor %}{{ eos_token }}";
        assert_eq!(render(source).unwrap(), "<s>USER:hi;SYSTEM:be <brief>;");
        let source = "{%- set ns = namespace(n=0) %}{% for m in messages %}\n    {% set ns.n = ns.n + 1 %}\n{% endfor %}{{ ns.n }}";
        assert_eq!(render(source).unwrap(), "2");
    }

    #[test]
    fn a_template_refuses_in_its_own_words() {
        let refused = render("{{ raise_exception('no system role') }}").unwrap_err();
        assert_eq!(refused, "no system role (line 1)");
        assert!(render("{% if %}").is_err());
    }

    #[test]
    fn marks_for_training_are_passed_over() {
        let source = "{% for m in messages %}{%- generation -%} {{ m.role }} {%- endgeneration %}{% endfor %}";
        assert_eq!(render(source).unwrap(), "systemuser");
    }

    #[test]
    fn dates_stand_still() {
        assert_eq!(render("{{ strftime_now('%d %b %Y') }}").unwrap(), "26 Jul 2024");
        assert!(render("{{ strftime_now('%Q') }}").is_err());
    }

    #[test]
    fn json_is_pythons() {
        assert_eq!(
            render("{{ messages[0] | tojson }}").unwrap(),
            r#"{"role": "system", "content": " be <brief> "}"#
        );
        assert_eq!(render("{{ ['é'] | tojson(indent=2) }}").unwrap(), "[\n  \"é\"\n]");
    }
}
