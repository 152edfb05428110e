//! A bar chart: one bar for each compared program, with the spread of its rounds. It has its own background and puts
//! names above their bars, so that it is readable at any width and on dark pages.

use std::fmt::Write;

use super::Bars;

const WIDTH: f64 = 480.0;
const LEFT: f64 = 16.0;
/// Width left for the number behind the longest bar.
const RIGHT: f64 = 84.0;
const TOP: f64 = 56.0;
const STEP: f64 = 42.0;
const BAR: f64 = 16.0;
const OURS: &str = "#0b6bcb";
const THEIRS: &str = "#8a929b";

pub fn svg(chart: &Bars) -> String {
    let longest = chart.bars.iter().map(|bar| bar.high.max(bar.value)).fold(0.0, f64::max);
    let rows = crate::load::count(chart.bars.len());
    let height = TOP + rows * STEP + 50.0;
    let mut text = head(&chart.title, height);
    let at = |value: f64| {
        if longest > 0.0 {
            LEFT + value / longest * (WIDTH - LEFT - RIGHT)
        } else {
            LEFT
        }
    };
    for (row, bar) in chart.bars.iter().enumerate() {
        let top = TOP + crate::load::count(row) * STEP;
        let colour = if bar.name.starts_with("cedargate") { OURS } else { THEIRS };
        let end = at(bar.value);
        let low = at(bar.low);
        let high = at(bar.high);
        let middle = top + 5.0 + BAR / 2.0;
        write!(
            text,
            "<text x='{LEFT}' y='{top:.1}'>{}</text>\n<rect x='{LEFT}' y='{:.1}' width='{:.1}' height='{BAR}' fill='{colour}'/>\n\
             <path d='M{low:.1} {middle:.1}H{high:.1}M{low:.1} {:.1}v8M{high:.1} {:.1}v8' stroke='#111' stroke-width='1.5' fill='none'/>\n\
             <text x='{:.1}' y='{:.1}'>{}</text>\n",
            escape(&bar.name),
            top + 5.0,
            end - LEFT,
            middle - 4.0,
            middle - 4.0,
            high.max(end) + 6.0,
            middle + 5.0,
            number(bar.value),
        )
        .unwrap();
    }
    let foot = height - 30.0;
    let label = escape(&chart.label);
    write!(
        text,
        "<path d='M{LEFT} {TOP}V{:.1}' stroke='#111'/>\n<g font-size='12' fill='#444'><text x='{LEFT}' y='{foot:.1}'>{label}</text>\n\
         <text x='{LEFT}' y='{:.1}'>thin lines: smallest and largest of all rounds</text></g>\n</svg>\n",
        foot - 20.0,
        foot + 17.0
    )
    .unwrap();
    text
}

pub fn head(title: &str, height: f64) -> String {
    let title = escape(title);
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{title}' \
         font-family='system-ui, sans-serif' font-size='14' fill='#111'>\n<title>{title}</title>\n\
         <rect width='{WIDTH}' height='{height}' rx='6' fill='#fff' stroke='#ccc'/>\n\
         <text x='{LEFT}' y='26' font-size='15' font-weight='600'>{title}</text>\n"
    )
}

pub fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('\'', "&#39;")
}

/// Three significant digits, with `k` for thousands and `M` for millions.
pub fn number(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if size >= 1e6 => format!("{}M", digits(value / 1e6)),
        _ if size >= 1e3 => format!("{}k", digits(value / 1e3)),
        _ => digits(value),
    }
}

fn digits(value: f64) -> String {
    let size = value.abs();
    let places = match size {
        _ if size >= 99.95 || size == 0.0 => 0,
        _ if size >= 9.995 => 1,
        _ if size >= 0.9995 => 2,
        _ => 3,
    };
    let text = format!("{value:.places$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}
