//! Axes: which ticks they have, and what stands at each. Everything is a whole number of the smallest unit (ns,
//! thousandths), so that a label says exactly where its tick is.

/// Most steps of an axis of equal steps.
const STEPS_MAX: u64 = 5;
/// Most ticks of a logarithmic axis that are labelled; with more, only powers of ten are.
const LOG_TICKS_MAX: usize = 8;

/// A tick: how far along the axis it is (0 to 1), and its label.
#[derive(Clone, PartialEq, Debug)]
pub struct Tick {
    /// From the axis's start, as a share of its length.
    pub at: f64,
    /// The value, with its unit where the axis has several.
    pub label: String,
}

/// An axis of equal steps from 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Linear {
    /// From tick to tick: 1, 2 or 5 times a power of ten.
    pub step: u64,
    /// Where the axis ends.
    pub end: u64,
}

impl Linear {
    /// The axis that holds `top` and ends with a tick.
    #[must_use]
    pub fn up_to(top: u64) -> Self {
        let step = step_for(top);
        Self { step, end: step * top.max(1).div_ceil(step) }
    }

    /// The axis that ends at `end`, wherever its last tick is.
    #[must_use]
    pub fn exactly(end: u64) -> Self {
        Self { step: step_for(end), end: end.max(1) }
    }

    /// Where a value is: 0 to 1.
    #[must_use]
    pub fn share(&self, value: u64) -> f64 {
        value.min(self.end) as f64 / self.end as f64
    }

    /// The ticks, each with its label.
    #[must_use]
    pub fn ticks(&self, label: impl Fn(u64) -> String) -> Vec<Tick> {
        let values = (0..=self.end / self.step).map(|number| number * self.step);
        values.map(|value| Tick { at: self.share(value), label: label(value) }).collect()
    }
}

/// The smallest of 1, 2, 5, 10, 20 and so on that makes at most [`STEPS_MAX`] steps up to `top`.
fn step_for(top: u64) -> u64 {
    one_two_five().find(|step| top.div_ceil(*step) <= STEPS_MAX).unwrap_or(u64::MAX)
}

/// 1, 2, 5, 10, 20, 50 and so on, as long as they fit.
fn one_two_five() -> impl Iterator<Item = u64> {
    (0..u64::MAX.ilog10()).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u64.pow(power)))
}

/// A logarithmic axis of times, ns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Log {
    /// The first tick.
    pub low: u64,
    /// The last one.
    pub high: u64,
}

impl Log {
    /// The axis that holds both times.
    #[must_use]
    pub fn of(least: u64, most: u64) -> Self {
        let low = one_two_five().take_while(|tick| *tick <= least.max(1)).last().unwrap_or(1);
        let high = one_two_five().find(|tick| *tick >= most && *tick > low).unwrap_or(u64::MAX);
        Self { low, high }
    }

    /// Where a time is: 0 to 1.
    #[must_use]
    pub fn share(&self, ns: u64) -> f64 {
        let log = |ns: u64| (ns as f64).log10();
        (log(ns.clamp(self.low, self.high)) - log(self.low)) / (log(self.high) - log(self.low))
    }

    /// The ticks, each with its label.
    #[must_use]
    pub fn ticks(&self) -> Vec<Tick> {
        let all: Vec<u64> = one_two_five().filter(|tick| (self.low..=self.high).contains(tick)).collect();
        let is_many = all.len() > LOG_TICKS_MAX;
        let wanted = all.into_iter().filter(|tick| !is_many || 10_u64.pow(tick.ilog10()) == *tick);
        wanted.map(|tick| Tick { at: self.share(tick), label: time(tick, unit_of(tick)) }).collect()
    }
}

/// A unit of time: its name, and its size as a power of ten of ns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unit(&'static str, u32);

/// The unit in which a time is a number from 1 to 999, as far as there is one.
#[must_use]
pub fn unit_of(ns: u64) -> Unit {
    match ns {
        0..1_000 => Unit("ns", 0),
        1_000..1_000_000 => Unit("\u{b5}s", 3),
        1_000_000..1_000_000_000 => Unit("ms", 6),
        1_000_000_000.. => Unit("s", 9),
    }
}

/// A time in words.
#[must_use]
pub fn time(ns: u64, unit: Unit) -> String {
    let Unit(name, power) = unit;
    format!("{} {name}", decimal(ns, power))
}

/// `value` with the last `power` of its digits behind the point, exactly, thousands apart.
#[must_use]
pub fn decimal(value: u64, power: u32) -> String {
    let one = 10_u64.pow(power);
    let (whole, rest) = ((value / one).to_string(), value % one);
    let mut text = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if rest > 0 {
        let digits = format!("{rest:0width$}", width = power as usize);
        text.push('.');
        text.push_str(digits.trim_end_matches('0'));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a reader takes a label for, in the smallest unit; `None` for one that says it inexactly.
    fn read(label: &str, power: u32) -> Option<u64> {
        let text = label.replace(',', "");
        let (whole, rest) = text.split_once('.').unwrap_or((&text, ""));
        let digits = format!("{rest:0<width$}", width = power as usize);
        (digits.len() == power as usize).then_some(())?;
        format!("{whole}{digits}").parse().ok()
    }

    fn read_time(label: &str) -> Option<u64> {
        let (number, unit) = label.split_once(' ')?;
        let power = match unit {
            "ns" => 0,
            "\u{b5}s" => 3,
            "ms" => 6,
            "s" => 9,
            other => panic!("{other} is no unit of time"),
        };
        read(number, power)
    }

    /// From a few ns to weeks, all sizes alike.
    fn size() -> impl Strategy<Value = u64> {
        (0_u32..15).prop_flat_map(|power| 1..10_u64.pow(power + 1))
    }

    proptest! {
        #[test]
        fn a_label_is_its_ticks_value(top in size()) {
            let axis = Linear::up_to(top);
            prop_assert!(axis.end >= top && axis.end - top < axis.step, "{axis:?}");
            let ticks = axis.ticks(|value| decimal(value, 3));
            prop_assert!((2..=6).contains(&ticks.len()), "{ticks:?}");
            for (number, tick) in ticks.iter().enumerate() {
                let value = read(&tick.label, 3).expect("a number");
                prop_assert_eq!(value, axis.step * number as u64);
                prop_assert!((tick.at - value as f64 / axis.end as f64).abs() < 1e-9, "{:?}", tick);
            }
            prop_assert_eq!(ticks.last().map(|tick| tick.at), Some(1.0));
        }

        #[test]
        fn a_label_of_a_time_is_its_ticks_time(end in size()) {
            let axis = Linear::exactly(end);
            for tick in axis.ticks(|ns| time(ns, unit_of(end))) {
                let ns = read_time(&tick.label).expect("a time");
                prop_assert!((tick.at - ns as f64 / end as f64).abs() < 1e-9 && tick.at <= 1.0, "{:?}", tick);
            }
        }

        #[test]
        fn a_logarithmic_axis_holds_all_and_labels_exactly(least in size(), more in size()) {
            let axis = Log::of(least, least + more);
            prop_assert!(axis.low <= least && least + more <= axis.high, "{axis:?}");
            let ticks = axis.ticks();
            prop_assert!(ticks.len() >= 2 || axis.high / axis.low < 100, "{ticks:?}");
            for tick in &ticks {
                let ns = read_time(&tick.label).expect("a time");
                prop_assert!((tick.at - axis.share(ns)).abs() < 1e-9, "{:?}", tick);
            }
            prop_assert!(ticks.windows(2).all(|pair| pair[0].at < pair[1].at), "{ticks:?}");
        }
    }

    #[test]
    fn labels_are_short_and_exact() {
        assert_eq!(decimal(12_500_000, 3), "12,500");
        assert_eq!(decimal(2_500, 3), "2.5");
        assert_eq!(decimal(1, 3), "0.001");
        assert_eq!(decimal(0, 9), "0");
        assert_eq!(time(500_000, unit_of(2_000_000)), "0.5 ms");
        assert_eq!(time(1_200_000_000_000, unit_of(1_200_000_000_000)), "1,200 s");
    }
}
