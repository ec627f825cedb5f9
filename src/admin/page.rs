//! Owns the live view for people with a browser (`/`): one document that needs no other. All that it shows it asks of
//! `/debug/watch`; whatever comes from there becomes text, never markup.

use super::http::Response;
use crate::io::entropy;

const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// In the order in which they need each other.
const SCRIPT: &str = concat!(
    include_str!("page/drawing.js"),
    include_str!("page/page.js")
);

/// The page, whose style and script a browser heeds by a number that nobody could have guessed.
pub fn page() -> Response {
    let nonce = entropy::uuid_text();
    let page = TEMPLATE
        .replace("{nonce}", &nonce)
        .replace("{style}", STYLE)
        .replace("{script}", SCRIPT);
    Response {
        nonce: Some(nonce),
        ..Response::ok("text/html; charset=utf-8", page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_comes_from_elsewhere_and_nothing_becomes_markup() {
        let response = page();
        let body = response.body.concat();
        let text = str::from_utf8(&body).unwrap();
        for foreign in [
            "http:",
            "https:",
            "src=",
            "url(",
            "@import",
            "import(",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "style=",
        ] {
            assert!(!text.contains(foreign), "{foreign}");
        }
        assert!(!text.contains("{nonce}") && !text.contains("{script}"));
        let nonce = response.nonce.unwrap();
        assert_eq!(text.matches(&nonce).count(), 2);
        assert_ne!(page().nonce, Some(nonce));
    }
}
