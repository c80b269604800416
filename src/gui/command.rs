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
    /// What each method needs, and bringing it.
    Models,
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
    /// Put the command that trains as the window would into the clipboard.
    CopyCommand,
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
    pub const ALL: [Self; 35] = [
        Self::Open,
        Self::Save,
        Self::SaveAs,
        Self::Export,
        Self::Models,
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
        Self::CopyCommand,
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
        // A test finds every command in the table.
        let (_, menu, label, tooltip, keys) = ROWS
            .iter()
            .find(|(command, ..)| *command == self)
            .unwrap_or(&ROWS[0]);
        About {
            menu: *menu,
            label,
            tooltip,
            keys,
        }
    }

    /// The shortcut as it is shown.
    #[must_use]
    pub fn shortcut_text(self, ctx: &egui::Context) -> String {
        match (self, self.about().keys.first()) {
            (Self::Shortcuts, _) => "?".to_owned(),
            (_, Some(keys)) => keys_text(ctx, keys),
            (_, None) => String::new(),
        }
    }

    /// Every key that asks for it, for the overlay.
    #[must_use]
    pub fn all_keys(self, ctx: &egui::Context) -> String {
        if self == Self::Shortcuts {
            return "?".to_owned();
        }
        let keys = self.about().keys.iter().map(|keys| keys_text(ctx, keys));
        keys.collect::<Vec<_>>().join(" or ")
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

/// A shortcut as people write it: marks as marks, not by their names.
fn keys_text(ctx: &egui::Context, keys: &KeyboardShortcut) -> String {
    match keys.logical_key {
        Key::Comma if keys.modifiers.is_none() => ",".to_owned(),
        Key::Period if keys.modifiers.is_none() => ".".to_owned(),
        _ => ctx.format_shortcut(keys),
    }
}

type Row = (
    Command,
    Menu,
    &'static str,
    &'static str,
    &'static [KeyboardShortcut],
);

/// The list itself: menu, name, what it does, keys.
static ROWS: [Row; 35] = [
    (
        Command::Open,
        Menu::File,
        "Open…",
        "Choose a film, a GIF, a folder of pictures, a run or a project.",
        &[control(Key::O)],
    ),
    (
        Command::Save,
        Menu::File,
        "Save project",
        "Write clip, words, settings and runs into one file.",
        &[control(Key::S)],
    ),
    (
        Command::SaveAs,
        Menu::File,
        "Save project as…",
        "Write the project file under another name.",
        &[control_shift(Key::S)],
    ),
    (
        Command::Export,
        Menu::File,
        "Export…",
        "Write the shown sample as MP4, WebM, GIF or PNG files.",
        &[key(Key::E)],
    ),
    (
        Command::Models,
        Menu::File,
        "Models…",
        "What each method needs, what of it is on this computer, and bringing the rest.",
        &[control(Key::L)],
    ),
    (
        Command::Quit,
        Menu::File,
        "Quit",
        "Close the window; a training leaves a checkpoint.",
        &[control(Key::Q)],
    ),
    (
        Command::Undo,
        Menu::Edit,
        "Undo",
        "Take the last change back.",
        &[control(Key::Z)],
    ),
    (
        Command::Redo,
        Menu::Edit,
        "Redo",
        "Take the undo back.",
        &[control_shift(Key::Z), control(Key::Y)],
    ),
    (
        Command::Play,
        Menu::Play,
        "Play or stop",
        "Start or stop playing.",
        &[key(Key::Space)],
    ),
    (
        Command::Backward,
        Menu::Play,
        "Play backwards",
        "Again for twice the speed.",
        &[key(Key::J)],
    ),
    (
        Command::Halt,
        Menu::Play,
        "Stop playing",
        "Stay on this frame.",
        &[key(Key::K)],
    ),
    (
        Command::Forward,
        Menu::Play,
        "Play forwards",
        "Again for twice the speed.",
        &[key(Key::L)],
    ),
    (
        Command::Previous,
        Menu::Play,
        "Previous frame",
        "One frame back.",
        &[key(Key::Comma), key(Key::ArrowLeft)],
    ),
    (
        Command::Next,
        Menu::Play,
        "Next frame",
        "One frame on.",
        &[key(Key::Period), key(Key::ArrowRight)],
    ),
    (
        Command::PreviousTen,
        Menu::Play,
        "Ten frames back",
        "Ten frames back.",
        &[shift(Key::ArrowLeft)],
    ),
    (
        Command::NextTen,
        Menu::Play,
        "Ten frames on",
        "Ten frames on.",
        &[shift(Key::ArrowRight)],
    ),
    (
        Command::SetIn,
        Menu::Play,
        "Begin the cut here",
        "The model sees the clip from this frame on.",
        &[key(Key::I)],
    ),
    (
        Command::SetOut,
        Menu::Play,
        "End the cut here",
        "This is the last frame the model sees; its frames are spread over the cut.",
        &[key(Key::O)],
    ),
    (
        Command::ToIn,
        Menu::Play,
        "To the beginning of the cut",
        "The first frame the model sees.",
        &[key(Key::Home)],
    ),
    (
        Command::ToOut,
        Menu::Play,
        "To the end of the cut",
        "The last frame the model sees.",
        &[key(Key::End)],
    ),
    (
        Command::Loop,
        Menu::Play,
        "Loop",
        "Begin again at the end of the cut.",
        &[],
    ),
    (
        Command::Train,
        Menu::Run,
        "Train",
        "Learn this motion, then make the result. While a run is on: put it in the queue.",
        &[control(Key::Enter)],
    ),
    (
        Command::Pause,
        Menu::Run,
        "Pause or resume",
        "Hold the training with everything in memory, or go on.",
        &[control(Key::P)],
    ),
    (
        Command::Stop,
        Menu::Run,
        "Stop",
        "End the run with a checkpoint, from which it can go on later.",
        &[KeyboardShortcut::new(
            Modifiers::COMMAND.plus(Modifiers::ALT),
            Key::Enter,
        )],
    ),
    (
        Command::SampleNow,
        Menu::Run,
        "Sample now",
        "Make a sample with the weights as they are.",
        &[control(Key::M)],
    ),
    (
        Command::CheckpointNow,
        Menu::Run,
        "Checkpoint now",
        "Write the state of the training to disk.",
        &[],
    ),
    (
        Command::CopyCommand,
        Menu::Run,
        "Copy as command",
        "The line for a terminal that trains as Train does, into the clipboard.",
        &[],
    ),
    (
        Command::Theme,
        Menu::View,
        "Dark or light",
        "Change between the dark and the light theme.",
        &[control(Key::T)],
    ),
    (
        Command::Larger,
        Menu::View,
        "Larger interface",
        "Scale the interface up by a tenth.",
        &[control(Key::Plus), control(Key::Equals)],
    ),
    (
        Command::Smaller,
        Menu::View,
        "Smaller interface",
        "Scale the interface down by a tenth.",
        &[control(Key::Minus)],
    ),
    (
        Command::NormalSize,
        Menu::View,
        "Normal interface size",
        "Back to the interface's own size.",
        &[control(Key::Num0)],
    ),
    (
        Command::ResetLayout,
        Menu::View,
        "Reset layout",
        "Put every pane back to where it was first.",
        &[],
    ),
    (
        Command::FullScreen,
        Menu::View,
        "Full screen",
        "Fill the screen, or leave it.",
        &[key(Key::F11)],
    ),
    (
        Command::Shortcuts,
        Menu::Help,
        "Shortcuts",
        "Everything the keyboard can do.",
        &[
            shift(Key::Questionmark),
            key(Key::Questionmark),
            shift(Key::Slash),
        ],
    ),
    (
        Command::Problems,
        Menu::Help,
        "Problems",
        "Everything that went wrong, with cause and remedy.",
        &[],
    ),
];

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
        // A text field has an undo of its own.
        let own_undo = typing && matches!(command, Command::Undo | Command::Redo);
        if plain && (typing || moves_focus) || own_undo {
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
        for (row, command) in ROWS.iter().zip(Command::ALL) {
            assert_eq!(row.0, command, "the table has the order of the list");
        }
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
