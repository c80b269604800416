//! What can be asked of the window. Menu, shortcuts, tooltips and the overlay of shortcuts all come from this one list.

use eframe::egui::{self, Key, KeyboardShortcut, Modifiers};

/// Everything a menu entry or a key can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Choose a clip, a run or a project.
    Open,
    /// Write the project file.
    Save,
    /// Write the project file under another name.
    SaveAs,
    /// Write the shown sample as a film.
    Export,
    /// Close the window.
    Quit,
    /// Take the last change back.
    Undo,
    /// Take the undo back.
    Redo,
    /// Start or stop playing.
    Play,
    /// Play backwards, again for faster.
    Backward,
    /// Stop playing.
    Halt,
    /// Play forwards, again for faster.
    Forward,
    /// One frame back.
    Previous,
    /// One frame on.
    Next,
    /// Ten frames back.
    PreviousTen,
    /// Ten frames on.
    NextTen,
    /// The cut begins here.
    SetIn,
    /// The cut ends here.
    SetOut,
    /// To the first frame of the cut.
    ToIn,
    /// To the last frame of the cut.
    ToOut,
    /// Begin again at the end.
    Loop,
    /// Start training, or put it in the queue.
    Train,
    /// Hold the training, or go on.
    Pause,
    /// End the training with a checkpoint.
    Stop,
    /// Sample with the weights as they are.
    SampleNow,
    /// Write a checkpoint.
    CheckpointNow,
    /// Between dark and light.
    Theme,
    /// Larger interface.
    Larger,
    /// Smaller interface.
    Smaller,
    /// Interface at its own size.
    NormalSize,
    /// Panes back to where they were first.
    ResetLayout,
    /// The whole screen.
    FullScreen,
    /// The list of shortcuts.
    Shortcuts,
    /// The list of problems.
    Problems,
}

/// Menus, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Menu {
    /// Files.
    File,
    /// Changes.
    Edit,
    /// The playhead and the cut.
    Play,
    /// The training.
    Run,
    /// The window itself.
    View,
    /// Help.
    Help,
}

impl Menu {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::File,
        Self::Edit,
        Self::Play,
        Self::Run,
        Self::View,
        Self::Help,
    ];

    /// Its name.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::File => "File",
            Self::Edit => "Edit",
            Self::Play => "Play",
            Self::Run => "Run",
            Self::View => "View",
            Self::Help => "Help",
        }
    }
}

/// What a command looks like.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Where it stands.
    pub menu: Menu,
    /// What it is called.
    pub label: &'static str,
    /// One sentence on what it does.
    pub tooltip: &'static str,
    /// The keys that ask for it, the first one is shown. Keys without a modifier yield to text fields.
    pub keys: &'static [KeyboardShortcut],
}

const fn key(key: Key) -> KeyboardShortcut {
    KeyboardShortcut::new(Modifiers::NONE, key)
}

const fn control(key: Key) -> KeyboardShortcut {
    KeyboardShortcut::new(Modifiers::COMMAND, key)
}

const fn shift(key: Key) -> KeyboardShortcut {
    KeyboardShortcut::new(Modifiers::SHIFT, key)
}

const fn control_shift(key: Key) -> KeyboardShortcut {
    KeyboardShortcut::new(Modifiers::COMMAND.plus(Modifiers::SHIFT), key)
}

impl Command {
    /// All of them, in the order of the menus.
    pub const ALL: [Self; 33] = [
        Self::Open,
        Self::Save,
        Self::SaveAs,
        Self::Export,
        Self::Quit,
        Self::Undo,
        Self::Redo,
        Self::Play,
        Self::Backward,
        Self::Halt,
        Self::Forward,
        Self::Previous,
        Self::Next,
        Self::PreviousTen,
        Self::NextTen,
        Self::SetIn,
        Self::SetOut,
        Self::ToIn,
        Self::ToOut,
        Self::Loop,
        Self::Train,
        Self::Pause,
        Self::Stop,
        Self::SampleNow,
        Self::CheckpointNow,
        Self::Theme,
        Self::Larger,
        Self::Smaller,
        Self::NormalSize,
        Self::ResetLayout,
        Self::FullScreen,
        Self::Shortcuts,
        Self::Problems,
    ];

    /// What it looks like.
    #[must_use]
    pub fn about(self) -> About {
        let (menu, label, tooltip, keys) = self.file_row().unwrap_or_else(|| self.other_row());
        About {
            menu,
            label,
            tooltip,
            keys,
        }
    }

    fn file_row(self) -> Option<Row> {
        use Menu::{Edit, File, Run, View};
        Some(match self {
            Self::Open => (
                File,
                "Open…",
                "Choose a film, a GIF, a folder of pictures, a run or a project.",
                &const { [control(Key::O)] },
            ),
            Self::Save => (
                File,
                "Save project",
                "Write clip, words, settings and runs into one file.",
                &const { [control(Key::S)] },
            ),
            Self::SaveAs => (
                File,
                "Save project as…",
                "Write the project file under another name.",
                &const { [control_shift(Key::S)] },
            ),
            Self::Export => (
                File,
                "Export…",
                "Write the shown sample as MP4, WebM, GIF or PNG files.",
                &const { [key(Key::E)] },
            ),
            Self::Quit => (
                File,
                "Quit",
                "Close the window; a training leaves a checkpoint.",
                &const { [control(Key::Q)] },
            ),
            Self::Undo => (
                Edit,
                "Undo",
                "Take the last change back.",
                &const { [control(Key::Z)] },
            ),
            Self::Redo => (
                Edit,
                "Redo",
                "Take the undo back.",
                &const { [control_shift(Key::Z), control(Key::Y)] },
            ),
            Self::Train => (
                Run,
                "Train",
                "Learn this motion, then make the result. While a run is on: put it in the queue.",
                &const { [control(Key::Enter)] },
            ),
            Self::Pause => (
                Run,
                "Pause or resume",
                "Hold the training with everything in memory, or go on.",
                &const { [control(Key::P)] },
            ),
            Self::Stop => (
                Run,
                "Stop",
                "End the run with a checkpoint, from which it can go on later.",
                &const {
                    [KeyboardShortcut::new(
                        Modifiers::COMMAND.plus(Modifiers::ALT),
                        Key::Enter,
                    )]
                },
            ),
            Self::SampleNow => (
                Run,
                "Sample now",
                "Make a sample with the weights as they are.",
                &const { [control(Key::M)] },
            ),
            Self::CheckpointNow => (
                Run,
                "Checkpoint now",
                "Write the state of the training to disk.",
                &[],
            ),
            Self::Theme => (
                View,
                "Dark or light",
                "Change between the dark and the light theme.",
                &const { [control(Key::T)] },
            ),
            Self::Larger => (
                View,
                "Larger interface",
                "Scale the interface up by a tenth.",
                &const { [control(Key::Plus), control(Key::Equals)] },
            ),
            Self::Smaller => (
                View,
                "Smaller interface",
                "Scale the interface down by a tenth.",
                &const { [control(Key::Minus)] },
            ),
            Self::NormalSize => (
                View,
                "Normal interface size",
                "Back to the interface's own size.",
                &const { [control(Key::Num0)] },
            ),
            _ => return None,
        })
    }

    fn other_row(self) -> Row {
        use Menu::{Help, Play, View};
        match self {
            Self::Backward => (
                Play,
                "Play backwards",
                "Again for twice the speed.",
                &const { [key(Key::J)] },
            ),
            Self::Halt => (
                Play,
                "Stop playing",
                "Stay on this frame.",
                &const { [key(Key::K)] },
            ),
            Self::Forward => (
                Play,
                "Play forwards",
                "Again for twice the speed.",
                &const { [key(Key::L)] },
            ),
            Self::Previous => (
                Play,
                "Previous frame",
                "One frame back.",
                &const { [key(Key::Comma), key(Key::ArrowLeft)] },
            ),
            Self::Next => (
                Play,
                "Next frame",
                "One frame on.",
                &const { [key(Key::Period), key(Key::ArrowRight)] },
            ),
            Self::PreviousTen => (
                Play,
                "Ten frames back",
                "Ten frames back.",
                &const { [shift(Key::ArrowLeft)] },
            ),
            Self::NextTen => (
                Play,
                "Ten frames on",
                "Ten frames on.",
                &const { [shift(Key::ArrowRight)] },
            ),
            Self::SetIn => (
                Play,
                "Begin the cut here",
                "The model sees the clip from this frame on.",
                &const { [key(Key::I)] },
            ),
            Self::SetOut => (
                Play,
                "End the cut here",
                "This is the last frame the model sees; its frames are spread over the cut.",
                &const { [key(Key::O)] },
            ),
            Self::ToIn => (
                Play,
                "To the beginning of the cut",
                "The first frame the model sees.",
                &const { [key(Key::Home)] },
            ),
            Self::ToOut => (
                Play,
                "To the end of the cut",
                "The last frame the model sees.",
                &const { [key(Key::End)] },
            ),
            Self::Loop => (Play, "Loop", "Begin again at the end of the cut.", &[]),
            Self::ResetLayout => (
                View,
                "Reset layout",
                "Put every pane back to where it was first.",
                &[],
            ),
            Self::FullScreen => (
                View,
                "Full screen",
                "Fill the screen, or leave it.",
                &const { [key(Key::F11)] },
            ),
            Self::Shortcuts => (
                Help,
                "Shortcuts",
                "Everything the keyboard can do.",
                &const {
                    [
                        shift(Key::Questionmark),
                        key(Key::Questionmark),
                        shift(Key::Slash),
                    ]
                },
            ),
            Self::Problems => (
                Help,
                "Problems",
                "Everything that went wrong, with cause and remedy.",
                &[],
            ),
            _ => (
                Play,
                "Play or stop",
                "Start or stop playing.",
                &const { [key(Key::Space)] },
            ),
        }
    }

    /// The shortcut as it is shown.
    #[must_use]
    pub fn shortcut_text(self, ctx: &egui::Context) -> String {
        match (self, self.about().keys.first()) {
            (Self::Shortcuts, _) => "?".to_owned(),
            (_, Some(keys)) => ctx.format_shortcut(keys),
            (_, None) => String::new(),
        }
    }

    /// Tooltip and shortcut, as one text.
    #[must_use]
    pub fn hover_text(self, ctx: &egui::Context) -> String {
        let keys = self.shortcut_text(ctx);
        let tooltip = self.about().tooltip;
        if keys.is_empty() {
            tooltip.to_owned()
        } else {
            format!("{tooltip} ({keys})")
        }
    }
}

type Row = (
    Menu,
    &'static str,
    &'static str,
    &'static [KeyboardShortcut],
);

/// Takes the commands that were typed since the last frame out of the input.
#[must_use]
pub fn typed(ctx: &egui::Context) -> Vec<Command> {
    let typing = ctx.text_edit_focused();
    // A focused button is pressed by the space bar, a focused slider moved by the arrows.
    let focused = ctx.memory(|memory| memory.focused().is_some());
    let mut shortcuts: Vec<(Command, &KeyboardShortcut)> = Command::ALL
        .iter()
        .flat_map(|command| command.about().keys.iter().map(|keys| (*command, keys)))
        .collect();
    // egui matches modifiers generously: the most specific shortcut is asked first.
    shortcuts.sort_by_key(|(_, keys)| {
        let modifiers = keys.modifiers;
        std::cmp::Reverse(
            u8::from(modifiers.shift) + u8::from(modifiers.alt) + u8::from(modifiers.command),
        )
    });
    let mut found = Vec::new();
    for (command, keys) in shortcuts {
        let plain = !keys.modifiers.command && keys.logical_key != Key::F11;
        let moves_focus = focused && is_widget_key(keys.logical_key);
        if plain && (typing || moves_focus) {
            continue;
        }
        if ctx.input_mut(|input| input.consume_shortcut(keys)) {
            found.push(command);
        }
    }
    found
}

fn is_widget_key(key: Key) -> bool {
    matches!(
        key,
        Key::Space | Key::ArrowLeft | Key::ArrowRight | Key::Home | Key::End
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_command_is_listed_once_and_no_key_asks_for_two() {
        let labels: BTreeSet<&str> = Command::ALL
            .iter()
            .map(|command| command.about().label)
            .collect();
        assert_eq!(labels.len(), Command::ALL.len());
        let mut keys = BTreeSet::new();
        for command in Command::ALL {
            for shortcut in command.about().keys {
                let name = format!("{:?} {:?}", shortcut.modifiers, shortcut.logical_key);
                assert!(keys.insert(name.clone()), "{name} asks for two commands");
            }
            assert!(command.about().tooltip.ends_with('.'));
        }
    }
}
