//! The kind of motion vector.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// How a motion vector is taken from two successive frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Residual {
    /// `|v[f+1] - v[f]|`, as in the released code of SMA and VMC.
    #[default]
    Abs,
    /// `v[f+1] - v[f]`, as in the papers' equations.
    Signed,
}

impl fmt::Display for Residual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Abs => "abs",
            Self::Signed => "signed",
        })
    }
}

impl FromStr for Residual {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "abs" => Ok(Self::Abs),
            "signed" => Ok(Self::Signed),
            other => Err(format!("there is no residual '{other}'; use abs or signed")),
        }
    }
}
