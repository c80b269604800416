//! What a picture of the drawn world shows, in words: a colour, a shape, a ground.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::motion::{ColourClass, NAMED_HUES};

/// The shapes of the drawn world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// A disc.
    Circle,
    /// Four equal sides.
    Square,
    /// Three equal sides.
    Triangle,
    /// Five points.
    Star,
}

impl Shape {
    /// Every shape.
    pub const ALL: [Self; 4] = [Self::Circle, Self::Square, Self::Triangle, Self::Star];

    /// Its word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Circle => "circle",
            Self::Square => "square",
            Self::Triangle => "triangle",
            Self::Star => "star",
        }
    }
}

/// The colours of the drawn world. Subjects have a hue; grounds may also be white, gray or black.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Colour {
    /// Hue 0 degrees.
    Red,
    /// Hue 55 degrees.
    Yellow,
    /// Hue 125 degrees.
    Green,
    /// Hue 185 degrees.
    Cyan,
    /// Hue 230 degrees.
    Blue,
    /// Hue 290 degrees.
    Purple,
    /// Grey of value 0.88.
    White,
    /// Grey of value 0.5.
    Gray,
    /// Grey of value 0.1.
    Black,
}

impl Colour {
    /// Every colour.
    pub const ALL: [Self; 9] = [
        Self::Red,
        Self::Yellow,
        Self::Green,
        Self::Cyan,
        Self::Blue,
        Self::Purple,
        Self::White,
        Self::Gray,
        Self::Black,
    ];

    /// The colours with a hue.
    pub const HUES: [Self; 6] = [
        Self::Red,
        Self::Yellow,
        Self::Green,
        Self::Cyan,
        Self::Blue,
        Self::Purple,
    ];

    /// Its word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Yellow => "yellow",
            Self::Green => "green",
            Self::Cyan => "cyan",
            Self::Blue => "blue",
            Self::Purple => "purple",
            Self::White => "white",
            Self::Gray => "gray",
            Self::Black => "black",
        }
    }

    /// Its hue in degrees; none for a grey.
    #[must_use]
    pub fn hue_degrees(self) -> Option<f64> {
        let named = NAMED_HUES.iter().find(|(name, _)| *name == self.name());
        named.map(|(_, hue)| *hue)
    }

    /// Value of a grey ground, 0..=1; none for a colour with a hue.
    #[must_use]
    pub fn grey_value(self) -> Option<f64> {
        match self {
            Self::White => Some(0.88),
            Self::Gray => Some(0.5),
            Self::Black => Some(0.1),
            _ => None,
        }
    }

    /// The pixels of a subject of this colour; none for a grey.
    #[must_use]
    pub fn class(self) -> Option<ColourClass> {
        self.hue_degrees().map(ColourClass::around)
    }

    fn of_word(word: &str) -> Option<Self> {
        if word == "grey" {
            return Some(Self::Gray);
        }
        Self::ALL.into_iter().find(|colour| colour.name() == word)
    }
}

/// What is known of a picture: from its words, from drawing it, or from looking at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scene {
    /// Colour of the subject, one with a hue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub colour: Option<Colour>,
    /// Shape of the subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
    /// Colour of the ground.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ground: Option<Colour>,
}

impl Scene {
    /// What words say of a scene, as far as they speak of the drawn world.
    ///
    /// The ground's colour stands up to two words before `background` or `ground`; the subject's is the first other
    /// colour with a hue.
    #[must_use]
    pub fn of_words(text: &str) -> Self {
        let text = text.to_lowercase();
        let words: Vec<&str> = text
            .split(|letter: char| !letter.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .collect();
        let shape_of = |word: &str| Shape::ALL.into_iter().find(|shape| shape.name() == word);
        let place = words
            .iter()
            .position(|word| matches!(*word, "background" | "ground"));
        let ground_at = place.and_then(|place| {
            let near = place.saturating_sub(2)..place;
            near.rev().find(|at| Colour::of_word(words[*at]).is_some())
        });
        let subject = words
            .iter()
            .enumerate()
            .filter(|(at, _)| Some(*at) != ground_at);
        Self {
            colour: subject
                .filter_map(|(_, word)| Colour::of_word(word))
                .find(|colour| colour.hue_degrees().is_some()),
            shape: words.iter().copied().find_map(shape_of),
            ground: ground_at.and_then(|at| Colour::of_word(words[at])),
        }
    }

    /// This scene, with what it does not say taken from another.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            colour: self.colour.or(other.colour),
            shape: self.shape.or(other.shape),
            ground: self.ground.or(other.ground),
        }
    }

    /// The subject in words the built-in model knows, for example `a red circle`.
    #[must_use]
    pub fn subject(&self) -> String {
        let colour = self.colour.map(Colour::name);
        let words = [
            Some("a"),
            colour,
            Some(self.shape.map_or("shape", Shape::name)),
        ];
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

impl fmt::Display for Scene {
    /// The scene in words the built-in model knows, for example `a red circle on a green plain background`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.subject())?;
        match self.ground {
            Some(ground) => write!(f, " on a {} plain background", ground.name()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_the_built_in_model_was_taught_them() {
        let scene = |colour, shape, ground| Scene {
            colour,
            shape,
            ground,
        };
        use Colour::{Blue, Gray, Green, Red, Yellow};
        use Shape::{Circle, Square, Star};
        for (words, want) in [
            (
                "a red circle on a green plain background",
                scene(Some(Red), Some(Circle), Some(Green)),
            ),
            (
                "The YELLOW star on a blue ground.",
                scene(Some(Yellow), Some(Star), Some(Blue)),
            ),
            (
                "green square, grey plain background",
                scene(Some(Green), Some(Square), Some(Gray)),
            ),
            (
                "a star on a blue background",
                scene(None, Some(Star), Some(Blue)),
            ),
            ("a blue shape", scene(Some(Blue), None, None)),
            ("a white star", scene(None, Some(Star), None)),
            ("a bear walking", Scene::default()),
            ("background", Scene::default()),
        ] {
            assert_eq!(Scene::of_words(words), want, "{words}");
        }
        for colour in Colour::HUES {
            let scene = scene(Some(colour), Some(Star), Some(Gray));
            assert_eq!(Scene::of_words(&scene.to_string()), scene, "said and read");
        }
    }
}
