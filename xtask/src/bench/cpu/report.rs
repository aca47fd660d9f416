//! The table.

use super::works::{Must, Peer, Work};

/// All that was measured of one kind of work with a number of threads.
pub(super) struct Row {
    pub(super) work: &'static Work,
    pub(super) threads: usize,
    pub(super) ours: Vec<f64>,
    /// What the machine allowed, in the unit of the work.
    pub(super) limits: Vec<f64>,
    peers: Vec<(Peer, Vec<f64>)>,
}

impl Row {
    pub(super) fn new(work: &'static Work, threads: usize) -> Self {
        Self { work, threads, ours: Vec::new(), limits: Vec::new(), peers: Vec::new() }
    }

    /// Adds what a peer reached.
    pub(super) fn peer(&mut self, peer: Peer, value: f64) {
        match self.peers.iter_mut().find(|(other, _)| *other == peer) {
            Some((_, values)) => values.push(value),
            None => self.peers.push((peer, vec![value])),
        }
    }

    /// How many times as fast as others: the median of ratios of one round each, since the machine changes between
    /// rounds.
    fn ratio(&self, others: &[f64]) -> Option<f64> {
        let is_rate = self.work.kind.is_rate();
        let one = |(ours, other): (&f64, &f64)| if is_rate { ours / other } else { other / ours };
        let ratios: Vec<f64> = self.ours.iter().zip(others).map(one).collect();
        (!ratios.is_empty()).then(|| median(&ratios))
    }

    /// Whether a bound is kept; `None` if the peer was not measured.
    fn keeps(&self, must: Must) -> Option<bool> {
        match must {
            Must::Peer(peer, times) => {
                let (_, values) = self.peers.iter().find(|(other, _)| *other == peer)?;
                Some(self.ratio(values)? >= times)
            }
            Must::Limit(share) => Some(self.ratio(&self.limits)? >= share),
            Must::AtMost(most) => Some(median(&self.ours) <= most),
        }
    }

    /// Whether every bound is kept that could be looked at.
    pub(super) fn is_met(&self) -> bool {
        self.work.musts.iter().all(|must| self.keeps(*must) != Some(false))
    }

    /// What was measured last.
    pub(super) fn summary(&self) -> String {
        let mut text = format!("{}: {:.1} {}", self.work.name, last(&self.ours), self.work.kind.unit());
        if !self.limits.is_empty() {
            text.push_str(&format!(", limit {:.1}", last(&self.limits)));
        }
        for (peer, values) in &self.peers {
            text.push_str(&format!(", {} {:.1}", peer.name(), last(values)));
        }
        text
    }

    fn line(&self) -> String {
        let percent = |share: f64| format!("{:.0} %", 100.0 * share);
        let of_limit = self.ratio(&self.limits).map_or("-".to_owned(), percent);
        let peers: Vec<String> =
            self.peers.iter().map(|(peer, values)| format!("{} {}", peer.name(), spread(values))).collect();
        let over: Vec<String> = self
            .peers
            .iter()
            .map(|(_, values)| self.ratio(values).map_or("-".to_owned(), |ratio| format!("{ratio:.2}")))
            .collect();
        let musts: Vec<String> = self.work.musts.iter().map(|must| self.must(*must)).collect();
        let or_dash = |cells: Vec<String>| if cells.is_empty() { "-".to_owned() } else { cells.join("; ") };
        format!(
            "| {} | {} | {} {} | {of_limit} | {} | {} | {} |\n",
            self.work.name,
            self.threads,
            spread(&self.ours),
            self.work.kind.unit(),
            or_dash(peers),
            or_dash(over),
            or_dash(musts)
        )
    }

    fn must(&self, must: Must) -> String {
        let what = match must {
            Must::Peer(peer, times) => format!("{times} x {}", peer.name()),
            Must::Limit(share) => format!("{:.0} %", 100.0 * share),
            Must::AtMost(most) => format!("at most {most}"),
        };
        let is_kept = match self.keeps(must) {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "not measured",
        };
        format!("{what}: {is_kept}")
    }
}

fn last(values: &[f64]) -> f64 {
    values.last().copied().unwrap_or(0.0)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

fn spread(values: &[f64]) -> String {
    let (low, high) = values.iter().fold((f64::INFINITY, 0f64), |(l, h), x| (l.min(*x), h.max(*x)));
    format!("{:.1} ({low:.1}..{high:.1})", median(values))
}

pub(super) fn table(rows: &[Row]) -> String {
    let mut out = String::from(
        "\n| work | threads | ours, median (min..max) | of the limit | peers | ours over peer | must |\n| --- | --- | --- | --- | --- | --- | --- |\n",
    );
    rows.iter().for_each(|row| out.push_str(&row.line()));
    out
}

#[cfg(test)]
mod tests {
    use super::super::works::WORKS;
    use super::*;

    fn row(name: &str, ours: &[f64], limits: &[f64]) -> Row {
        let work = WORKS.iter().find(|work| work.name == name).unwrap();
        Row { ours: ours.to_vec(), limits: limits.to_vec(), ..Row::new(work, 1) }
    }

    #[test]
    fn ratios_are_of_one_round() {
        let mut row = row("mamba-130m decode, int8", &[10.0, 20.0, 30.0], &[20.0, 40.0, 40.0]);
        (0..3).for_each(|_| row.peer(Peer::LlamaCpp, 5.0));
        let text = table(&[row]);
        assert!(
            text.contains("| mamba-130m decode, int8 | 1 | 20.0 (10.0..30.0) tokens/s | 50 % |"),
            "{text}"
        );
        assert!(text.contains("| llama.cpp 5.0 (5.0..5.0) | 4.00 | 80 %: NO |"), "{text}");
    }

    #[test]
    fn less_time_is_better() {
        let mut row = row("scan alone, L2048 D1536 N16 f32", &[10.0], &[6.0]);
        assert!(row.is_met());
        row.peer(Peer::Ggml, 90.0);
        assert!(!row.is_met());
        assert_eq!(row.ratio(&[90.0]), Some(9.0));
    }

    #[test]
    fn medians() {
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[])), (2.0, 0.0));
    }
}
