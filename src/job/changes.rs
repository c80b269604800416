//! Settings that change while a training goes on: recorded in the run, and obeyed again when a resumed run comes to the
//! same step, so that it ends where the uninterrupted one does.

use super::message::Setting;
use crate::project::{Change, LiveSettings};

/// The name of a setting in `run.toml`: the one that commands use.
pub(super) fn name_of(setting: Setting) -> String {
    serde_json::to_value(setting)
        .ok()
        .and_then(|name| name.as_str().map(str::to_owned))
        .unwrap_or_else(|| setting.to_string())
}

/// The setting of a name; none for names that this version does not know.
pub(super) fn setting_of(name: &str) -> Option<Setting> {
    serde_json::from_value(serde_json::Value::from(name)).ok()
}

/// Puts a value among the live settings.
pub(super) fn put(live: &mut LiveSettings, setting: Setting, value: f64) -> Result<(), String> {
    match setting {
        Setting::LambdaG => live.lambda_g = value,
        Setting::LambdaL => live.lambda_l = value,
        Setting::Delta => live.delta = value,
        Setting::LearningRate => live.learning_rate = value,
        Setting::PreviewEvery => {
            if value.fract() != 0.0 || !(0.0..=f64::from(u32::MAX)).contains(&value) {
                return Err("It counts steps: a whole number of 0 or more.".to_owned());
            }
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked to be a whole number in range"
            )]
            {
                live.preview_every = value as u32;
            }
        }
    }
    Ok(())
}

/// Notes a change in its place. It takes the place of what an earlier life of the run did to that setting later on.
pub(super) fn note(changes: &mut Vec<Change>, change: Change) {
    changes.retain(|known| known.setting != change.setting || known.step <= change.step);
    let place = changes.partition_point(|known| known.step <= change.step);
    changes.insert(place, change);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(step: u32, setting: &str, value: f64) -> Change {
        Change {
            step,
            setting: setting.to_owned(),
            value,
        }
    }

    #[test]
    fn a_change_takes_the_place_of_later_ones_of_its_setting() {
        let mut changes = vec![
            change(3, "delta", 0.1),
            change(5, "lambda_g", 0.2),
            change(8, "delta", 0.3),
        ];
        note(&mut changes, change(5, "delta", 0.2));
        note(&mut changes, change(4, "lambda_l", 0.5));
        let expected = [
            change(3, "delta", 0.1),
            change(4, "lambda_l", 0.5),
            change(5, "lambda_g", 0.2),
            change(5, "delta", 0.2),
        ];
        assert_eq!(changes, expected);
    }

    #[test]
    fn names_of_settings_come_back() {
        for setting in [
            Setting::LambdaG,
            Setting::LambdaL,
            Setting::Delta,
            Setting::LearningRate,
            Setting::PreviewEvery,
        ] {
            assert_eq!(setting_of(&name_of(setting)), Some(setting));
        }
        assert_eq!(setting_of("tempo"), None);
    }
}
