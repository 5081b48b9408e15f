//! A plot: curves in an SVG that is stretched to the room there is, labels beside it in the page's own letters, so that
//! they are as large on a telephone as on a desk.

use std::fmt::Write;

use super::axis::Tick;

/// The SVG's own measure, both ways.
const SPAN: f64 = 1000.0;

/// Labels that have room side by side in any window; of more, every second one goes where the window is narrow, but not
/// the last.
const ROOMY_TICKS: usize = 4;

/// A plot without its curves.
#[derive(Clone, Debug)]
pub struct Plot {
    /// For those who do not see it.
    pub description: String,
    /// What goes up, with its unit.
    pub up: &'static str,
    /// What goes along, with its unit.
    pub along: &'static str,
    /// Ticks of the axis that goes up.
    pub up_ticks: Vec<Tick>,
    /// Ticks of the axis that goes along.
    pub along_ticks: Vec<Tick>,
}

impl Plot {
    /// The plot as markup. Points of a curve are shares of both axes: along, up.
    #[must_use]
    pub fn render(&self, curves: &[Vec<(f64, f64)>]) -> String {
        let mut out = String::new();
        let widest = self.up_ticks.iter().map(|tick| tick.label.chars().count()).max().unwrap_or(0);
        let mut put = |text: std::fmt::Arguments<'_>| {
            out.write_fmt(text).expect("writing to a string cannot fail");
        };
        put(format_args!("<figure class=\"plot\" style=\"--labels: {}ch\">\n", widest + 1));
        put(format_args!("<p class=\"axis up\">{}</p>\n<div class=\"frame\">\n", self.up));
        for tick in &self.up_ticks {
            put(format_args!(
                "<span class=\"up\" style=\"bottom: {:.3}%\">{}</span>\n",
                tick.at * 100.0,
                tick.label
            ));
        }
        put(format_args!(
            "<svg viewBox=\"0 0 {SPAN} {SPAN}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\">\n",
            super::html::escape(&self.description)
        ));
        for tick in &self.up_ticks {
            let y = SPAN * (1.0 - tick.at);
            put(format_args!("<path class=\"grid\" d=\"M0 {y:.1}H{SPAN}\"/>"));
        }
        for tick in &self.along_ticks {
            put(format_args!("<path class=\"grid\" d=\"M{:.1} 0V{SPAN}\"/>", SPAN * tick.at));
        }
        put(format_args!("\n"));
        for curve in curves {
            put(format_args!("<polyline class=\"curve\" points=\""));
            for (along, up) in curve {
                put(format_args!("{:.1},{:.1} ", SPAN * along, SPAN * (1.0 - up)));
            }
            put(format_args!("\"/>\n"));
        }
        put(format_args!("</svg>\n"));
        let ticks = self.along_ticks.len();
        for (number, tick) in self.along_ticks.iter().enumerate() {
            let is_second = ticks > ROOMY_TICKS && (ticks - number).is_multiple_of(2);
            put(format_args!(
                "<span class=\"along{}{}\" style=\"left: {:.3}%\">{}</span>\n",
                if tick.at > 0.97 { " last" } else { "" },
                if is_second { " second" } else { "" },
                tick.at * 100.0,
                tick.label
            ));
        }
        put(format_args!("</div>\n<p class=\"axis along\">{}</p>\n</figure>\n", self.along));
        out
    }
}
