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

/// The custom properties of a theme: what stands between `start` and the end of its block.
fn colors(start: &str) -> Vec<(&'static str, [f64; 3])> {
    let block = STYLE.split_once(start).unwrap().1.split_once('}').unwrap().0;
    block
        .lines()
        .filter_map(|line| line.trim().strip_prefix("--")?.split_once(": #"))
        .map(|(name, value)| {
            let part = |at: usize| u8::from_str_radix(&value[at..at + 2], 16).unwrap();
            (name, [part(0), part(2), part(4)].map(|it| f64::from(it) / 255.0))
        })
        .collect()
}

fn linear(part: f64) -> f64 {
    if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
}

/// As WCAG has it: from 1 for the same to 21 for black on white.
fn contrast(a: [f64; 3], b: [f64; 3]) -> f64 {
    let light = |[r, g, b]: [f64; 3]| 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    let (a, b) = (light(a) + 0.05, light(b) + 0.05);
    a.max(b) / a.min(b)
}

const THEMES: [&str; 2] =
    [":root {\n  color-scheme: light dark;", "(prefers-color-scheme: dark) {\n  :root {"];
const SERIES: [&str; 6] = ["s0", "s1", "s2", "s3", "s4", "s5"];

#[test]
fn colours_are_read_on_either_background() {
    let words = ["text", "quiet", "mark", "information", "warning", "failure"].map(|it| (it, 4.5));
    for theme in THEMES {
        let colors = colors(theme);
        let color = |name: &str| colors.iter().find(|it| it.0 == name).unwrap().1;
        for (name, least) in words.into_iter().chain(SERIES.map(|it| (it, 3.0))) {
            for back in ["back", "panel"] {
                let contrast = contrast(color(name), color(back));
                assert!(contrast >= least, "{theme} {name} on {back}: {contrast}");
            }
        }
    }
}

/// What an eye makes of a colour (Machado and others, 2009): any, and those without long, middle and
/// short waves.
const EYES: [[[f64; 3]; 3]; 4] = [
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
];

/// How far apart two colours look (CIE 1976): beyond 10 they are two at a glance.
fn distance(a: [f64; 3], b: [f64; 3], eye: [[f64; 3]; 3]) -> f64 {
    let lab = |color: [f64; 3]| {
        let color = color.map(linear);
        let seen =
            eye.map(|it| (it[0] * color[0] + it[1] * color[1] + it[2] * color[2]).clamp(0.0, 1.0));
        let part = |weights: [f64; 3]| {
            let sum = weights[0] * seen[0] + weights[1] * seen[1] + weights[2] * seen[2];
            if sum > 0.008856 { sum.cbrt() } else { 7.787 * sum + 16.0 / 116.0 }
        };
        let x = part([0.4339, 0.3762, 0.1899]);
        let y = part([0.2126, 0.7152, 0.0722]);
        let z = part([0.0177, 0.1095, 0.8728]);
        [116.0 * y, 500.0 * (x - y), 200.0 * (y - z)]
    };
    let (a, b) = (lab(a), lab(b));
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn colours_of_series_are_told_apart_by_any_eye() {
    for theme in THEMES {
        let colors = colors(theme);
        let color = |name: &str| colors.iter().find(|it| it.0 == name).unwrap().1;
        for (index, a) in SERIES.iter().enumerate() {
            for b in &SERIES[..index] {
                for eye in EYES {
                    let distance = distance(color(a), color(b), eye);
                    assert!(distance >= 20.0, "{theme} {a} and {b}: {distance} to {eye:?}");
                }
            }
        }
    }
}
