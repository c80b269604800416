//! The playback clock: one time for all panes, at the true times of the frames.

/// Fastest shuttle, times real speed.
const FASTEST: f64 = 8.0;

/// Where the playhead is and how it moves. Times are seconds from the start of the source.
#[derive(Clone, Debug, PartialEq)]
pub struct Player {
    /// The playhead.
    pub time_secs: f64,
    /// Whether it moves.
    pub playing: bool,
    /// Times real speed; negative runs backwards.
    pub speed: f64,
    /// Whether it begins again at the end.
    pub looping: bool,
}

impl Default for Player {
    fn default() -> Self {
        Self {
            time_secs: 0.0,
            playing: true,
            speed: 1.0,
            looping: true,
        }
    }
}

impl Player {
    /// Moves the playhead by the time that passed, within `start..end`.
    pub fn advance(&mut self, passed_secs: f64, start: f64, end: f64) {
        let length = end - start;
        if length <= 0.0 {
            self.time_secs = start;
            return;
        }
        if self.playing {
            self.time_secs += passed_secs * self.speed;
        }
        if self.time_secs >= start && self.time_secs < end {
            return;
        }
        if !self.playing {
            self.time_secs = self.time_secs.clamp(start, last_moment(start, end));
        } else if self.looping {
            self.time_secs = start + (self.time_secs - start).rem_euclid(length);
        } else {
            self.time_secs = self.time_secs.clamp(start, last_moment(start, end));
            self.playing = false;
        }
    }

    /// Space.
    pub fn toggle(&mut self) {
        self.playing = !self.playing;
        self.speed = 1.0;
    }

    /// L: plays forward; again, faster.
    pub fn forward(&mut self) {
        self.shuttle(1.0);
    }

    /// J: plays backward; again, faster.
    pub fn backward(&mut self) {
        self.shuttle(-1.0);
    }

    /// K: stops.
    pub fn stop(&mut self) {
        self.playing = false;
        self.speed = 1.0;
    }

    fn shuttle(&mut self, direction: f64) {
        let same = self.playing && self.speed * direction > 0.0;
        self.speed = if same {
            (self.speed * 2.0).clamp(-FASTEST, FASTEST)
        } else {
            direction
        };
        self.playing = true;
    }

    /// Stops at the frame `steps` frames from the one on screen.
    pub fn step(&mut self, times_secs: &[f64], steps: i64) {
        self.stop();
        let Some(last) = times_secs.len().checked_sub(1) else {
            return;
        };
        let now = i64::try_from(frame_at(times_secs, self.time_secs)).unwrap_or(0);
        let last = i64::try_from(last).unwrap_or(i64::MAX);
        let target = usize::try_from((now + steps).clamp(0, last)).unwrap_or(0);
        self.time_secs = times_secs[target];
    }
}

/// A moment inside `start..end` that still shows its last frame.
fn last_moment(start: f64, end: f64) -> f64 {
    (end - (end - start) * 1e-6).max(start)
}

/// The frame on screen at a time; the first one before it.
#[must_use]
pub fn frame_at(times_secs: &[f64], time_secs: f64) -> usize {
    // Half a microsecond of slack, so that stepping to a frame's own time shows that frame.
    times_secs
        .partition_point(|&time| time <= time_secs + 5e-7)
        .saturating_sub(1)
}

/// A time as `0:02.4`.
#[must_use]
pub fn clock(time_secs: f64) -> String {
    let tenths = (time_secs.max(0.0) * 10.0).floor();
    let minutes = (tenths / 600.0).floor();
    let seconds = (tenths - minutes * 600.0) / 10.0;
    format!("{minutes}:{seconds:04.1}")
}

/// A length of time in words: `20 s`, `2 min 10 s`, `1 h 05 min`.
#[must_use]
pub fn length(secs: f64) -> String {
    let secs = secs.max(0.0).round();
    if secs < 60.0 {
        format!("{secs} s")
    } else if secs < 3600.0 {
        format!("{} min {:02} s", (secs / 60.0).floor(), secs % 60.0)
    } else {
        let minutes = (secs / 60.0).round();
        format!("{} h {:02} min", (minutes / 60.0).floor(), minutes % 60.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: [f64; 4] = [0.0, 0.1, 0.3, 0.4];

    #[test]
    fn frames_show_at_their_own_times() {
        assert_eq!(frame_at(&TIMES, -1.0), 0);
        assert_eq!(frame_at(&TIMES, 0.1), 1);
        assert_eq!(frame_at(&TIMES, 0.29), 1);
        assert_eq!(frame_at(&TIMES, 9.0), 3);
    }

    #[test]
    fn the_end_is_the_start_while_looping() {
        let mut player = Player::default();
        player.advance(0.45, 0.0, 0.5);
        player.advance(0.1, 0.0, 0.5);
        assert!((player.time_secs - 0.05).abs() < 1e-9);
        player.backward();
        player.advance(0.1, 0.0, 0.5);
        assert!((player.time_secs - 0.45).abs() < 1e-9);
        player.looping = false;
        player.forward();
        player.advance(1.0, 0.0, 0.5);
        assert!(!player.playing && player.time_secs < 0.5);
    }

    #[test]
    fn stepping_stops_and_stays_inside() {
        let mut player = Player::default();
        player.step(&TIMES, 2);
        assert!(!player.playing);
        assert_eq!(frame_at(&TIMES, player.time_secs), 2);
        player.step(&TIMES, 10);
        assert_eq!(frame_at(&TIMES, player.time_secs), 3);
        player.step(&TIMES, -10);
        assert_eq!(frame_at(&TIMES, player.time_secs), 0);
    }

    #[test]
    fn shuttle_doubles_and_turns() {
        let mut player = Player::default();
        player.forward();
        assert!((player.speed - 2.0).abs() < 1e-9);
        player.backward();
        assert!((player.speed + 1.0).abs() < 1e-9);
        for _ in 0..9 {
            player.backward();
        }
        assert!((player.speed + FASTEST).abs() < 1e-9);
    }

    #[test]
    fn times_read_as_people_write_them() {
        assert_eq!(clock(2.44), "0:02.4");
        assert_eq!(clock(75.0), "1:15.0");
        assert_eq!(length(130.0), "2 min 10 s");
        assert_eq!(length(19.6), "20 s");
    }
}
