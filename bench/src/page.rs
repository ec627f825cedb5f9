//! Owns the page that a report makes (`--html`): one file that needs no other, with the report's JSON in it. What a person
//! sees is made by the page's script from that JSON, and from nothing else. Other reports than those of `coati bench` bring a
//! script of their own, and share how it looks and is drawn.

const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// In the order in which they need each other.
const SHARED_SCRIPT: &str = concat!(
    include_str!("page/charts.js"),
    include_str!("page/parts.js")
);
const SCRIPT: &str = include_str!("page/page.js");

/// The page of a report, whose JSON is as `--json` prints it.
pub fn page(json: &str) -> String {
    page_with("coati bench", SCRIPT, json)
}

/// The page that a script makes of a report. The script goes by the names of `page/parts.js` and ends with `show`.
pub fn page_with(title: &str, script: &str, json: &str) -> String {
    // No text in the JSON may end the element that it is in; `<` occurs within strings alone.
    let json = json.replace('<', "\\u003c");
    let script = [SHARED_SCRIPT, script].concat();
    let mut page = String::with_capacity(TEMPLATE.len() + STYLE.len() + script.len() + json.len());
    let mut rest = TEMPLATE;
    for (place, content) in [
        ("{title}", title),
        ("{style}", STYLE),
        ("{report}", &json),
        ("{script}", &script),
    ] {
        let (before, behind) = rest.split_once(place).expect("the template has its places");
        page.push_str(before);
        page.push_str(content);
        rest = behind;
    }
    page + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_in_it_and_cannot_break_out() {
        let report = serde_json::json!({ "name": "</script><b>{script}" });
        let page = page(&report.to_string());
        let (_, rest) = page
            .split_once(r#"<script type="application/json" id="report">"#)
            .unwrap();
        let (json, _) = rest.split_once("</script>").unwrap();
        let read: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(read, report);
    }

    #[test]
    fn nothing_comes_from_elsewhere() {
        let page = page("{}");
        for foreign in ["src=", "href=", "url(", "@import", "import(", "fetch("] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(page.contains("default-src 'none'"));
    }
}
