use super::*;

const HOSTILE: &str = "</script><script>alert(1)</script><img src=x onerror='a()'>\"&\u{1b}[0m";

fn page(sections: Vec<Section>) -> Page {
    Page {
        title: HOSTILE.to_owned(),
        command: HOSTILE.to_owned(),
        date: HOSTILE.to_owned(),
        facts: vec![(HOSTILE.to_owned(), HOSTILE.to_owned())],
        notes: vec![
            Note { kind: NoteKind::Information, text: "a note".to_owned() },
            Note { kind: NoteKind::Warning, text: "a warning".to_owned() },
            Note { kind: NoteKind::Failure, text: HOSTILE.to_owned() },
        ],
        sections,
    }
}

fn every_section() -> Vec<Section> {
    let axis = Axis { label: HOSTILE.into(), unit: HOSTILE.into(), scale: Scale::Linear };
    vec![
        Section::Heading(HOSTILE.to_owned()),
        Section::Text(HOSTILE.to_owned()),
        Section::Table(Table {
            caption: HOSTILE.to_owned(),
            header: vec![HOSTILE.to_owned(); 2],
            rows: vec![vec![HOSTILE.to_owned(); 2]],
        }),
        Section::Plot(Plot {
            title: HOSTILE.to_owned(),
            x: axis.clone(),
            y: axis,
            series: vec![Series {
                name: HOSTILE.to_owned(),
                points: vec![(0.0, 1.0), (1.0, 2.0)],
                style: SeriesStyle::Solid,
            }],
            marks: vec![Mark { at: 0.5, label: HOSTILE.to_owned() }],
        }),
    ]
}

#[test]
fn no_text_reaches_the_parser() {
    let html = with_nonce(&page(every_section()), "n");
    assert_eq!(html.matches("<script").count(), 1);
    assert_eq!(html.matches("</script>").count(), 1);
    assert!(!html.contains("<img"));
    assert!(!html.contains("onerror='"));
    assert!(!html.contains('\u{1b}'));
    assert!(html.contains("&lt;img src=x onerror=&#39;a()&#39;&gt;"));
}

#[test]
fn the_policy_admits_the_style_and_the_script_of_this_page_alone() {
    let html = render(&page(Vec::new()));
    let nonce = html.split("'nonce-").nth(1).and_then(|it| it.split('\'').next()).unwrap();
    assert_eq!(nonce.len(), 32);
    assert!(html.contains(&format!(
        "content=\"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; \
         base-uri 'none'; form-action 'none'\""
    )));
    assert_eq!(html.matches(&format!(" nonce=\"{nonce}\"")).count(), 2);
    assert!(!render(&page(Vec::new())).contains(nonce), "another page has another nonce");
}

#[test]
fn nothing_is_loaded_from_elsewhere() {
    let html = with_nonce(&page(every_section()), "n");
    let html = html.replace("http://www.w3.org/2000/svg", "");
    for way in ["http:", "https:", "//cdn", "url(", "@import", "<link", " src=\"", " style=\""] {
        assert!(!html.contains(way), "{way}");
    }
    assert!(STYLE.is_ascii());
    assert!(SCRIPT.is_ascii());
    assert!(!SCRIPT.contains("innerHTML"));
}

#[test]
fn the_page_is_the_same_but_for_its_nonce() {
    let page = page(every_section());
    assert_eq!(with_nonce(&page, "n"), with_nonce(&page, "n"));
}

#[test]
fn a_table_has_a_cell_for_every_column() {
    let mut out = String::new();
    let header = ["", "rate", "p99"].map(str::to_owned).to_vec();
    let rows = vec![vec!["a".to_owned(), "1".to_owned()]];
    table(&Table { caption: "rates".to_owned(), header: header.clone(), rows }, &mut out);
    assert!(out.contains("<tr><th scope=\"row\">a</th><td>1</td><td></td></tr>"));
    out.clear();
    table(&Table { caption: "rates".to_owned(), header, rows: Vec::new() }, &mut out);
    assert!(out.contains("<th colspan=\"3\" scope=\"row\">no data</th>"));
}

#[test]
fn many_headings_have_a_list_of_contents() {
    let headings = |count| (0..count).map(|it| Section::Heading(format!("part {it}"))).collect();
    assert!(!with_nonce(&page(headings(2)), "n").contains("<nav"));
    let html = with_nonce(&page(headings(3)), "n");
    assert!(html.contains("<a href=\"#s2\">part 2</a>"));
    assert!(html.contains("<h2 id=\"s2\">part 2</h2>"));
}

#[test]
fn notes_say_what_they_are() {
    let html = with_nonce(&page(Vec::new()), "n");
    for (class, word, text) in [
        ("information", "Note", "a note"),
        ("warning", "Warning", "a warning"),
        ("failure", "Failure", ""),
    ] {
        assert!(html.contains(&format!(
            "<p class=\"note {class}\" role=\"note\"><strong>{word}</strong> {text}"
        )));
    }
}
