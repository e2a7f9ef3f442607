//! Regular expressions that mean here what they mean to HF tokenizers, which read them with another engine (Oniguruma).
//!
//! What the two engines read alike is accepted, all else refused by name: a file may not come out as other ids.

use regex_syntax::ast::{
    self, AssertionKind, Ast, ClassPerlKind, ClassSet, ClassSetBinaryOpKind, ClassSetItem, ClassUnicode,
    ClassUnicodeKind, Flags, FlagsItemKind, GroupKind, HexLiteralKind, Literal, LiteralKind, Repetition,
    RepetitionKind, RepetitionRange, Span,
};
use regex_syntax::hir::translate::TranslatorBuilder;
use regex_syntax::hir::{Hir, HirKind};

use crate::error::PatternError;

type Result<T> = std::result::Result<T, PatternError>;

/// Groups within groups, at most.
const MAX_DEPTH: u32 = 100;
/// Properties for which both engines hold the same characters. Compared with HF's by the tests.
#[rustfmt::skip]
const PROPERTIES: [&str; 49] = [
    "L", "Lu", "Ll", "Lt", "Lm", "Lo", "M", "Mn", "Mc", "Me", "N", "Nd", "Nl", "No", "P", "Pc", "Pd", "Ps", "Pe", "Pi",
    "Pf", "Po", "S", "Sm", "Sc", "Sk", "So", "Z", "Zs", "Zl", "Zp", "C", "Cc", "Cf", "Co", "Cn", "Han", "Hiragana",
    "Katakana", "Hangul", "Latin", "Greek", "Cyrillic", "Arabic", "Hebrew", "Thai", "Devanagari", "Armenian", "Georgian",
];
/// Two letters that are also one, such as the sharp s, to an engine that folds case in full.
const FOLDED_PAIRS: [&str; 5] = ["ss", "ff", "fi", "fl", "st"];

/// Parses `source`, in which `^` and `$` stand at line ends.
pub(crate) fn parse(source: &str) -> Result<Hir> {
    let syntax_error = |reason: String| {
        let pattern = source.to_owned();
        if reason.contains("look-around") {
            return PatternError::LookAround { pattern };
        }
        PatternError::Syntax { pattern, reason }
    };
    let ast = ast::parse::ParserBuilder::new().nest_limit(MAX_DEPTH).build().parse(source);
    let ast = ast.map_err(|error| syntax_error(error.to_string()))?;
    Reader { source }.check(&ast, Place { is_first: true, folds: false })?;
    let hir = TranslatorBuilder::new().multi_line(true).build().translate(source, &ast);
    let hir = hir.map_err(|error| syntax_error(error.to_string()))?;
    match has_empty_rounds(&hir) {
        true => Err(dialect(source, "a repetition of what may be empty", "let each round match something")),
        false => Ok(hir),
    }
}

/// The expression that matches `text` and nothing else.
pub(crate) fn literal(text: &str) -> Hir {
    Hir::literal(text.as_bytes())
}

fn dialect(source: &str, found: impl Into<String>, instead: &'static str) -> PatternError {
    PatternError::Dialect { pattern: source.to_owned(), found: found.into(), instead }
}

/// Engines differ on when to leave a loop whose round matched nothing.
fn has_empty_rounds(hir: &Hir) -> bool {
    let subs: &[Hir] = match hir.kind() {
        HirKind::Repetition(repetition) => {
            let may_be_empty = repetition.sub.properties().minimum_len() == Some(0);
            if may_be_empty && repetition.max != Some(1) {
                return true;
            }
            std::slice::from_ref(&repetition.sub)
        }
        HirKind::Capture(capture) => std::slice::from_ref(&capture.sub),
        HirKind::Concat(subs) | HirKind::Alternation(subs) => subs,
        _ => &[],
    };
    subs.iter().any(has_empty_rounds)
}

/// What decides about a part of an expression.
#[derive(Clone, Copy)]
struct Place {
    /// Whether a match begins here.
    is_first: bool,
    /// Whether upper and lower case are one.
    folds: bool,
}

struct Reader<'s> {
    source: &'s str,
}

impl Reader<'_> {
    fn text(&self, span: &Span) -> &str {
        &self.source[span.start.offset..span.end.offset]
    }

    fn refuse(&self, span: &Span, instead: &'static str) -> Result<()> {
        Err(dialect(self.source, format!("`{}`", self.text(span)), instead))
    }

    fn check(&self, ast: &Ast, place: Place) -> Result<()> {
        match ast {
            Ast::Empty(_) | Ast::Dot(_) => Ok(()),
            Ast::Flags(flags) => self.refuse(&flags.span, "put what it is for in a group, (?i:...)"),
            Ast::Literal(literal) => self.check_literal(literal, place.folds),
            Ast::Assertion(assertion) => self.check_assertion(assertion, place),
            Ast::ClassUnicode(class) => self.check_property(class, place.folds),
            Ast::ClassPerl(class) => self.check_perl(&class.span, &class.kind, place.folds),
            Ast::ClassBracketed(class) => self.check_set(&class.kind, place.folds),
            Ast::Repetition(repetition) => self.check_repetition(repetition, place),
            Ast::Group(group) => {
                let folds = self.check_group(&group.kind, &group.span, place.folds)?;
                if folds {
                    self.check_folds(&group.span)?;
                }
                self.check(&group.ast, Place { folds, ..place })
            }
            Ast::Alternation(either) => either.asts.iter().try_for_each(|ast| self.check(ast, place)),
            Ast::Concat(all) => all.asts.iter().enumerate().try_for_each(|(index, ast)| {
                self.check(ast, Place { is_first: place.is_first && index == 0, ..place })
            }),
        }
    }

    fn check_literal(&self, literal: &Literal, folds: bool) -> Result<()> {
        let is_shared = match literal.kind {
            LiteralKind::Verbatim
            | LiteralKind::Meta
            | LiteralKind::Superfluous
            | LiteralKind::Special(_) => true,
            LiteralKind::HexBrace(HexLiteralKind::X)
            | LiteralKind::HexFixed(HexLiteralKind::UnicodeShort) => true,
            LiteralKind::HexFixed(HexLiteralKind::X) => literal.c.is_ascii(),
            _ => false,
        };
        if !is_shared {
            return self.refuse(&literal.span, "write the character itself, or \\x{...}");
        }
        if folds && !literal.c.is_ascii() {
            return self.refuse(&literal.span, "write upper and lower case out");
        }
        Ok(())
    }

    fn check_assertion(&self, assertion: &ast::Assertion, place: Place) -> Result<()> {
        match assertion.kind {
            AssertionKind::EndLine | AssertionKind::StartText | AssertionKind::EndText => Ok(()),
            AssertionKind::StartLine if place.is_first => Ok(()),
            AssertionKind::StartLine => self.refuse(&assertion.span, "`^` where the match begins"),
            _ => self.refuse(&assertion.span, "write the characters on both sides out"),
        }
    }

    fn check_property(&self, class: &ClassUnicode, folds: bool) -> Result<()> {
        let is_shared =
            matches!(&class.kind, ClassUnicodeKind::Named(name) if PROPERTIES.contains(&name.as_str()));
        match is_shared && !folds {
            true => Ok(()),
            false => {
                self.refuse(&class.span, "a general category or a common script, such as \\p{L} or \\p{Han}")
            }
        }
    }

    fn check_perl(&self, span: &Span, kind: &ClassPerlKind, folds: bool) -> Result<()> {
        match kind {
            ClassPerlKind::Word => self.refuse(span, "write what a word is made of, such as [\\p{L}\\p{N}_]"),
            _ if folds => self.refuse(span, "take it out of the group that ignores case"),
            _ => Ok(()),
        }
    }

    fn check_set(&self, set: &ClassSet, folds: bool) -> Result<()> {
        match set {
            ClassSet::BinaryOp(op) if op.kind == ClassSetBinaryOpKind::Intersection => {
                self.check_set(&op.lhs, folds)?;
                self.check_set(&op.rhs, folds)
            }
            ClassSet::BinaryOp(op) => self.refuse(&op.span, "&& with a negated class"),
            ClassSet::Item(item) => self.check_item(item, folds),
        }
    }

    fn check_item(&self, item: &ClassSetItem, folds: bool) -> Result<()> {
        match item {
            ClassSetItem::Empty(span) => self.refuse(span, "a class of at least one character"),
            ClassSetItem::Literal(literal) => self.check_literal(literal, folds),
            ClassSetItem::Range(range) => {
                self.check_literal(&range.start, folds)?;
                self.check_literal(&range.end, folds)
            }
            ClassSetItem::Ascii(class) => self.refuse(&class.span, "write the characters out: a-z or \\p{L}"),
            ClassSetItem::Unicode(class) => self.check_property(class, folds),
            ClassSetItem::Perl(class) => self.check_perl(&class.span, &class.kind, folds),
            ClassSetItem::Bracketed(class) => self.check_set(&class.kind, folds),
            ClassSetItem::Union(union) => {
                union.items.iter().try_for_each(|item| self.check_item(item, folds))
            }
        }
    }

    fn check_repetition(&self, repetition: &Repetition, place: Place) -> Result<()> {
        if matches!(*repetition.ast, Ast::Repetition(_)) {
            let (pattern, place) = (self.source.to_owned(), repetition.op.span.start.offset);
            return Err(PatternError::Possessive { pattern, place });
        }
        let is_exact = matches!(repetition.op.kind, RepetitionKind::Range(RepetitionRange::Exactly(_)));
        if is_exact && !repetition.greedy {
            return self.refuse(&repetition.op.span, "leave the ? out");
        }
        if place.folds && repetition.op.kind != RepetitionKind::ZeroOrOne {
            return self.refuse(&repetition.span, "take it out of the group that ignores case");
        }
        self.check(&repetition.ast, Place { is_first: false, ..place })
    }

    /// Whether case is ignored within a group.
    fn check_group(&self, kind: &GroupKind, span: &Span, folds: bool) -> Result<bool> {
        match kind {
            GroupKind::CaptureIndex(_) | GroupKind::CaptureName { starts_with_p: false, .. } => Ok(folds),
            GroupKind::CaptureName { .. } => self.refuse(span, "(?<name>...)").map(|()| folds),
            GroupKind::NonCapturing(flags) => self.check_flags(flags, folds),
        }
    }

    fn check_flags(&self, flags: &Flags, folds: bool) -> Result<bool> {
        let mut is_on = true;
        let mut folds = folds;
        for item in &flags.items {
            match item.kind {
                FlagsItemKind::Negation => is_on = false,
                FlagsItemKind::Flag(ast::Flag::CaseInsensitive) => folds = is_on,
                FlagsItemKind::Flag(_) => self.refuse(&flags.span, "i is the only flag that is known")?,
            }
        }
        Ok(folds)
    }

    /// Refuses two letters of a group that are one character to the other engine.
    fn check_folds(&self, span: &Span) -> Result<()> {
        let lower = self.text(span).to_ascii_lowercase();
        match FOLDED_PAIRS.iter().any(|pair| lower.contains(pair)) {
            true => self.refuse(span, "write upper and lower case out"),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(source: &str) -> Option<String> {
        match parse(source).unwrap_err() {
            PatternError::Dialect { found, .. } => Some(found),
            _ => None,
        }
    }

    #[test]
    fn what_engines_read_in_their_own_way_is_named() {
        for (source, found) in [
            (r"a\w+", r"`\w`"),
            (r"\bword", r"`\b`"),
            (r"\<a", r"`\<`"),
            (r"[[:alpha:]]", "`[:alpha:]`"),
            (r"[a--b]", "`a--b`"),
            (r"\pL", r"`\pL`"),
            (r"\p{Alphabetic}", r"`\p{Alphabetic}`"),
            (r"\p{Script=Han}", r"`\p{Script=Han}`"),
            (r"(?i)a", "`(?i)`"),
            (r"(?s:.)", "`s`"),
            (r"(?i:straße)", "`(?i:straße)`"),
            (r"(?i:é)", "`é`"),
            (r"(?i:s+)", "`s+`"),
            (r"\xe9", r"`\xe9`"),
            (r"\u{e9}", r"`\u{e9}`"),
            (r"\n^a", "`^`"),
            (r"a{2}?", "`{2}?`"),
            (r"(?P<x>a)", "`(?P<x>a)`"),
            (r"(?:a?)*", "a repetition of what may be empty"),
        ] {
            assert_eq!(refusal(source).as_deref(), Some(found), "{source}");
        }
    }

    #[test]
    fn what_they_read_alike_is_taken() {
        for source in [
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
            r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*",
            r"[a-z&&[^aeiou]]|\x{1F600}|\u00e9|\x41|(?<name>b)|^\s+|\s+$|\d|.",
            "",
        ] {
            assert!(parse(source).is_ok(), "{source}");
        }
    }
}
