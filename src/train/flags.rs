//! Settings that were typed: how they stand over those of a preset, and which method each of them is for.

use clap::parser::ValueSource;
use clap::{ArgMatches, Args as _};

use super::config::TransferConfig;
use super::error::TrainError;
use super::preset::Preset;
use crate::methods::Method;

/// Settings that one method alone knows, by their names in files and with underscores on the command line.
const OWNED: [(Method, &[&str]); 3] = [
    (
        Method::MotionDirector,
        &[
            "rank",
            "lora_dropout",
            "dropout_until",
            "single_spatial_lora",
            "lora_scale",
            "spatial_scale",
        ],
    ),
    (Method::TuneAVideo, &["temporal_bias"]),
    (
        Method::ControlVideo,
        &["control_scale", "canny", "condition", "controlnet"],
    ),
];

/// The method that alone knows a setting, or a flag beside the settings.
#[must_use]
pub fn owner_of(name: &str) -> Option<Method> {
    let owned = OWNED.iter().find(|(_, names)| names.contains(&name));
    owned.map(|(method, _)| *method)
}

/// Refuses flags that none of these methods knows: whoever types one expects it to change something.
///
/// # Errors
/// [`TrainError::Setting`] names the first one and its method.
pub fn refuse_idle(matches: &ArgMatches, methods: &[Method]) -> Result<(), TrainError> {
    let beside = ["condition", "controlnet"].into_iter().filter(|name| {
        // An argument that a command does not have cannot be asked for.
        matches.try_contains_id(name).is_ok()
            && matches.value_source(name) == Some(ValueSource::CommandLine)
    });
    let names = typed_names(matches)
        .into_iter()
        .chain(beside.map(str::to_owned));
    for name in names {
        if let Some(owner) = owner_of(&name).filter(|owner| !methods.contains(owner)) {
            return Err(TrainError::Setting(format!(
                "--{} is for {} alone: leave it out, or choose that method with --method",
                name.replace('_', "-"),
                owner.name()
            )));
        }
    }
    Ok(())
}

/// Names of the settings that stand on a command line, as they are in files.
#[must_use]
pub fn typed_names(matches: &ArgMatches) -> Vec<String> {
    let known = TransferConfig::augment_args(clap::Command::new(""));
    let names = known
        .get_arguments()
        .map(|argument| argument.get_id().as_str().to_owned());
    let is_typed = |name: &String| matches.value_source(name) == Some(ValueSource::CommandLine);
    names.filter(is_typed).collect()
}

/// Flags that were typed, over the settings of a preset. Without one, a method that begins with an image model has those that
/// suit it: the program's own are for other networks.
///
/// # Errors
/// When the preset cannot be read or a value cannot be kept.
pub fn explicit_over_preset(
    typed: &TransferConfig,
    matches: &ArgMatches,
    preset: Option<Preset>,
    with_builtin_model: bool,
) -> Result<TransferConfig, TrainError> {
    let fitting = || Preset::of(typed.method, with_builtin_model);
    let Some(preset) = preset.or_else(fitting) else {
        return Ok(typed.clone());
    };
    let as_table = |config: &TransferConfig| {
        toml::Table::try_from(config).map_err(|error| TrainError::Setting(error.to_string()))
    };
    let mut merged = as_table(&preset.config()?)?;
    let mut values = as_table(typed)?;
    for name in typed_names(matches) {
        match values.remove(&name) {
            Some(value) => merged.insert(name, value),
            // What is left out of a file is at its default, which was asked for.
            None => merged.remove(&name),
        };
    }
    merged
        .try_into()
        .map_err(|error: toml::de::Error| TrainError::Setting(error.to_string()))
}

/// What to type for these settings, `--name=value` each: those that differ from what the command line takes without them.
/// What a preset sets and these settings leave open cannot be said.
#[must_use]
pub fn flags_of(config: &TransferConfig, with_builtin_model: bool) -> Vec<String> {
    let fitting = Preset::of(config.method, with_builtin_model);
    let base = fitting.and_then(|preset| preset.config().ok());
    let table = |config: &TransferConfig| toml::Table::try_from(config).unwrap_or_default();
    let base = table(&TransferConfig {
        method: Method::default(),
        ..base.unwrap_or_default()
    });
    let wanted = table(config);
    let known = TransferConfig::augment_args(clap::Command::new(""));
    let mut flags = Vec::new();
    for argument in known.get_arguments() {
        let name = argument.get_id().as_str();
        // What only another method knows has no effect, and would be refused.
        if owner_of(name).is_some_and(|owner| owner != config.method) {
            continue;
        }
        // A file leaves some settings out that are at their default.
        let value = match (wanted.get(name), base.get(name)) {
            (Some(value), before) if Some(value) != before => text_of(value),
            (None, Some(_)) => argument
                .get_default_values()
                .first()
                .map(|value| value.to_string_lossy().into_owned()),
            _ => None,
        };
        let flag = name.replace('_', "-");
        match value {
            Some(value) if argument.get_action().takes_values() => {
                flags.push(format!("--{flag}={value}"));
            }
            Some(value) if value == "true" => flags.push(format!("--{flag}")),
            _ => {}
        }
    }
    flags
}

/// A value as it is typed.
fn text_of(value: &toml::Value) -> Option<String> {
    Some(match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Boolean(is_so) => is_so.to_string(),
        toml::Value::Array(values) => {
            let values: Option<Vec<_>> = values.iter().map(text_of).collect();
            values?.join(",")
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => return None,
    })
}
