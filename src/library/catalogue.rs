//! The models the methods begin with, as their authors publish them on the Hugging Face hub.
//!
//! Sizes here are approximate: they follow from the numbers in each network (`tests/golden/keys.txt`) and serve for a first
//! look without a network. Names, sizes and checksums that a download goes by come from the server. Of a file that is
//! published in several forms the first one there is taken: half precision before full, safetensors before PyTorch's own.

use crate::methods::Method;
use crate::models::ModelKind;

/// What a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole model in diffusers' layout.
    Model(ModelKind),
    /// A ControlNet for Stable Diffusion 1.x, which goes beside a model.
    ControlNet,
    /// An estimator of depth, which makes what a ControlNet for depth follows.
    Depth,
}

/// Under which terms a model is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Licence {
    /// Its name.
    pub name: &'static str,
    /// Where it can be read.
    pub link: &'static str,
}

/// A file a model needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its path inside the model, in the forms it is published in; the first one the server has is taken.
    pub names: &'static [&'static str],
    /// About how large the first form is.
    pub about_bytes: u64,
    /// Whether a model that lacks it is whole all the same.
    pub is_optional: bool,
}

/// A model of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    /// What to call it on the command line.
    pub name: &'static str,
    /// What its authors call it.
    pub title: &'static str,
    /// Its name on the hub.
    pub repo: &'static str,
    /// Names it had before, under which a cache may hold it.
    pub former: &'static [&'static str],
    /// What it is.
    pub kind: Kind,
    /// One sentence on it.
    pub about: &'static str,
    /// Its licence.
    pub licence: Licence,
    /// What it consists of.
    pub files: &'static [Wanted],
    /// Frames it is usually trained on here.
    pub frames: usize,
    /// Width and height in pixels it was trained on.
    pub size: (u32, u32),
}

impl Known {
    /// The methods it serves.
    pub fn methods(&self) -> impl Iterator<Item = Method> {
        let kind = self.kind;
        Method::ALL.into_iter().filter(move |method| match kind {
            Kind::Model(kind) => method.model_kind() == kind,
            Kind::ControlNet | Kind::Depth => method.is_controlled(),
        })
    }

    /// The methods it serves, in words.
    #[must_use]
    pub fn method_names(&self) -> String {
        let names: Vec<_> = self.methods().map(Method::name).collect();
        names.join(", ")
    }

    /// About how many bytes a download of all of it is.
    #[must_use]
    pub fn about_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.about_bytes).sum()
    }

    /// The names it has or had on the hub.
    pub fn repos(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.repo).chain(self.former.iter().copied())
    }

    /// The model of this name: the catalogue's own, or one on the hub.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        KNOWN.iter().find(|known| {
            known.name.eq_ignore_ascii_case(name)
                || known.repos().any(|repo| repo.eq_ignore_ascii_case(name))
        })
    }
}

const CC_BY_NC: Licence = Licence {
    name: "CC BY-NC 4.0: not for commercial use",
    link: "https://creativecommons.org/licenses/by-nc/4.0/",
};
/// The model card names one in its header and the other in its text.
const CC_BY_NC_ND: Licence = Licence {
    name: "CC BY-NC 4.0, in its card's text CC BY-NC-ND 4.0: not for commercial use",
    link: "https://huggingface.co/ali-vilab/text-to-video-ms-1.7b",
};
const OPEN_RAIL_M: Licence = Licence {
    name: "CreativeML OpenRAIL-M: free to use, with restrictions on harmful uses",
    link: "https://huggingface.co/spaces/CompVis/stable-diffusion-license",
};

/// A file of one form.
const fn file(names: &'static [&'static str], about_bytes: u64) -> Wanted {
    Wanted {
        names,
        about_bytes,
        is_optional: false,
    }
}

/// A file that is fetched where there is one: other programs read it.
const fn optional(names: &'static [&'static str], about_bytes: u64) -> Wanted {
    Wanted {
        is_optional: true,
        ..file(names, about_bytes)
    }
}

const MODEL_INDEX: Wanted = file(&["model_index.json"], 1 << 10);
const SCHEDULER: Wanted = file(&["scheduler/scheduler_config.json"], 1 << 10);
const UNET_CONFIG: Wanted = file(&["unet/config.json"], 1 << 10);
const VAE_CONFIG: Wanted = file(&["vae/config.json"], 1 << 10);
const TEXT_CONFIG: Wanted = file(&["text_encoder/config.json"], 1 << 10);
const VOCABULARY: Wanted = file(&["tokenizer/vocab.json"], 1_060_000);
const MERGES: Wanted = file(&["tokenizer/merges.txt"], 525_000);
const SPECIAL_TOKENS: Wanted = optional(&["tokenizer/special_tokens_map.json"], 1 << 10);
const TOKENIZER_CONFIG: Wanted = optional(&["tokenizer/tokenizer_config.json"], 1 << 10);

/// Numbers in each network, and the bytes of one in half precision.
const HALF: u64 = 2;
const VIDEO_UNET: u64 = 1_411_233_860;
const VIDEO_TEXT: u64 = 340_387_840;
const IMAGE_UNET: u64 = 859_520_964;
const IMAGE_TEXT: u64 = 123_060_480;
const VAE: u64 = 83_653_863;
const CONTROLNET: u64 = 361_279_120;
const DEPTH: u64 = 24_785_089;

/// ZeroScope is published in PyTorch's own format alone, in half precision.
const ZEROSCOPE: &[Wanted] = &[
    MODEL_INDEX,
    SCHEDULER,
    UNET_CONFIG,
    VAE_CONFIG,
    TEXT_CONFIG,
    VOCABULARY,
    MERGES,
    SPECIAL_TOKENS,
    TOKENIZER_CONFIG,
    file(TEXT_FORMS_OF_ONE, HALF * VIDEO_TEXT),
    file(VAE_FORMS_OF_ONE, HALF * VAE),
    file(UNET_FORMS_OF_ONE, HALF * VIDEO_UNET),
];
const UNET_FORMS_OF_ONE: &[&str] = &[
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.bin",
];
const VAE_FORMS_OF_ONE: &[&str] = &[
    "vae/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.bin",
];
const TEXT_FORMS_OF_ONE: &[&str] = &[
    "text_encoder/model.safetensors",
    "text_encoder/pytorch_model.bin",
];

const UNET_FORMS: &[&str] = &[
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.fp16.bin",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.bin",
];
const VAE_FORMS: &[&str] = &[
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "vae/diffusion_pytorch_model.fp16.bin",
    "vae/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.bin",
];
const TEXT_FORMS: &[&str] = &[
    "text_encoder/model.fp16.safetensors",
    "text_encoder/pytorch_model.fp16.bin",
    "text_encoder/model.safetensors",
    "text_encoder/pytorch_model.bin",
];

const MODELSCOPE: &[Wanted] = &[
    MODEL_INDEX,
    SCHEDULER,
    UNET_CONFIG,
    VAE_CONFIG,
    TEXT_CONFIG,
    VOCABULARY,
    MERGES,
    SPECIAL_TOKENS,
    TOKENIZER_CONFIG,
    file(TEXT_FORMS, HALF * VIDEO_TEXT),
    file(VAE_FORMS, HALF * VAE),
    file(UNET_FORMS, HALF * VIDEO_UNET),
];

const STABLE_DIFFUSION: &[Wanted] = &[
    MODEL_INDEX,
    SCHEDULER,
    UNET_CONFIG,
    VAE_CONFIG,
    TEXT_CONFIG,
    VOCABULARY,
    MERGES,
    SPECIAL_TOKENS,
    TOKENIZER_CONFIG,
    file(TEXT_FORMS, HALF * IMAGE_TEXT),
    file(VAE_FORMS, HALF * VAE),
    file(UNET_FORMS, HALF * IMAGE_UNET),
];

/// In full precision: the authors publish no other.
const CONTROL: &[Wanted] = &[
    file(&["config.json"], 1 << 10),
    file(
        &[
            "diffusion_pytorch_model.safetensors",
            "diffusion_pytorch_model.bin",
        ],
        4 * CONTROLNET,
    ),
];

const fn controlnet(
    name: &'static str,
    title: &'static str,
    repo: &'static str,
    about: &'static str,
) -> Known {
    Known {
        name,
        title,
        repo,
        former: &[],
        kind: Kind::ControlNet,
        about,
        licence: OPEN_RAIL_M,
        files: CONTROL,
        frames: 8,
        size: (512, 512),
    }
}

/// Every model of the catalogue, in the order it is shown.
pub const KNOWN: &[Known] = &[
    Known {
        name: "zeroscope",
        title: "ZeroScope v2 576w",
        repo: "cerspense/zeroscope_v2_576w",
        former: &[],
        kind: Kind::Model(ModelKind::Video),
        about: "Text to video without a watermark, at 576×320; what MotionDirector's authors use.",
        licence: CC_BY_NC,
        files: ZEROSCOPE,
        frames: 16,
        size: (576, 320),
    },
    Known {
        name: "modelscope",
        title: "ModelScope T2V 1.7B",
        repo: "ali-vilab/text-to-video-ms-1.7b",
        former: &["damo-vilab/text-to-video-ms-1.7b"],
        kind: Kind::Model(ModelKind::Video),
        about: "Text to video at 256×256; ZeroScope was made of it.",
        licence: CC_BY_NC_ND,
        files: MODELSCOPE,
        frames: 16,
        size: (256, 256),
    },
    Known {
        name: "sd14",
        title: "Stable Diffusion 1.4",
        repo: "CompVis/stable-diffusion-v1-4",
        former: &[],
        kind: Kind::Model(ModelKind::Image),
        about: "Still pictures at 512×512; what Tune-A-Video's authors use.",
        licence: OPEN_RAIL_M,
        files: STABLE_DIFFUSION,
        frames: 8,
        size: (512, 512),
    },
    Known {
        name: "sd15",
        title: "Stable Diffusion 1.5",
        repo: "stable-diffusion-v1-5/stable-diffusion-v1-5",
        former: &["runwayml/stable-diffusion-v1-5"],
        kind: Kind::Model(ModelKind::Image),
        about: "Still pictures at 512×512; what ControlVideo's authors use, with one of the ControlNets below.",
        licence: OPEN_RAIL_M,
        files: STABLE_DIFFUSION,
        frames: 8,
        size: (512, 512),
    },
    controlnet(
        "controlnet-canny",
        "ControlNet for edges (Canny)",
        "lllyasviel/sd-controlnet-canny",
        "Follows edges, which this program draws of the clip.",
    ),
    controlnet(
        "controlnet-depth",
        "ControlNet for depth",
        "lllyasviel/sd-controlnet-depth",
        "Follows a clip of depth maps, which Depth Anything below makes of the clip.",
    ),
    controlnet(
        "controlnet-hed",
        "ControlNet for soft edges (HED)",
        "lllyasviel/sd-controlnet-hed",
        "Follows a clip of soft edges.",
    ),
    controlnet(
        "controlnet-openpose",
        "ControlNet for poses (OpenPose)",
        "lllyasviel/sd-controlnet-openpose",
        "Follows a clip of poses.",
    ),
    Known {
        name: "depth-anything-small",
        title: "Depth Anything V2 Small",
        repo: "depth-anything/Depth-Anything-V2-Small-hf",
        former: &[],
        kind: Kind::Depth,
        about: "Estimates the depth of a clip, for the ControlNet for depth.",
        licence: Licence {
            name: "Apache 2.0",
            link: "https://huggingface.co/depth-anything/Depth-Anything-V2-Small-hf",
        },
        files: &[
            file(&["config.json"], 1 << 10),
            optional(&["preprocessor_config.json"], 1 << 10),
            file(&["model.safetensors"], 2 * HALF * DEPTH),
        ],
        frames: 8,
        size: (512, 512),
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_model_is_named_once_and_found_by_each_name() {
        let mut names = BTreeSet::new();
        for known in KNOWN {
            for name in std::iter::once(known.name).chain(known.repos()) {
                assert!(names.insert(name.to_lowercase()), "{name} names two models");
                assert_eq!(Known::find(name), Some(known));
            }
            assert!(known.methods().count() > 0, "{} serves nothing", known.name);
            assert!(known.licence.link.starts_with("https://"));
        }
        assert_eq!(
            Known::find("ZEROSCOPE").map(|known| known.name),
            Some("zeroscope")
        );
        assert!(Known::find("another").is_none());
    }

    /// A file's path becomes one on this computer: none may lead out of its folder.
    #[test]
    fn files_stay_in_their_folder() {
        for known in KNOWN {
            let mut seen = BTreeSet::new();
            for name in known.files.iter().flat_map(|file| file.names) {
                assert!(seen.insert(*name), "{name} twice in {}", known.name);
                let plain = |part: &str| !part.is_empty() && !part.starts_with('.');
                assert!(name.split('/').all(plain), "{name}");
                assert!(!name.contains(['\\', ':']), "{name}");
            }
        }
    }

    /// The numbers of each network, counted in the lists of diffusers and transformers.
    #[test]
    fn sizes_follow_from_the_published_networks() {
        let count = |network: &str| -> u64 {
            let text = include_str!("../../tests/golden/keys.txt");
            let lines = text
                .lines()
                .skip_while(|line| *line != format!("# {network}"));
            let lines = lines.skip(1).take_while(|line| !line.starts_with('#'));
            let numbers = |line: &str| -> u64 {
                line.split(' ')
                    .skip(1)
                    .map(|size| size.parse::<u64>().unwrap())
                    .product()
            };
            lines.map(numbers).sum()
        };
        for (network, numbers) in [
            ("zeroscope.unet", VIDEO_UNET),
            ("zeroscope.text", VIDEO_TEXT),
            ("sd15.unet", IMAGE_UNET),
            ("sd15.text", IMAGE_TEXT),
            ("sd15.vae", VAE),
            ("sd15.controlnet", CONTROLNET),
        ] {
            assert_eq!(count(network), numbers, "{network}");
        }
    }
}
