//! What other programs leave in their files beside the factors, and the other ways in which they write the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::Tensor;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use spectral_motion::models::{FittedLora, LoraFile, LoraFormat, LoraPart};
use spectral_motion::project::{PlainTensor, TensorFile};

use super::{fit, micro, noise, numbers};
use crate::common::golden;
use crate::models::torch_writer::checkpoint_of;

const QUERY: &str = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
const WORDS: &str = "encoder.layers.0.self_attn.q_proj";

/// Both factors, of rank 3, for a layer of one of the networks.
fn factors(part: LoraPart, layer: &str) -> (Tensor, Tensor) {
    let network = micro().lora_network().unwrap();
    let shapes = match part {
        LoraPart::Unet => &network.unet,
        LoraPart::Text => &network.text,
    };
    let shape = &shapes[&format!("{layer}.weight")];
    (noise(1, &[3, shape[1]]), noise(2, &[shape[0], 3]))
}

fn write(path: &Path, tensors: &BTreeMap<String, Tensor>, notes: &[(&str, &str)]) {
    let plain = |tensor: &Tensor| PlainTensor::from_f32(tensor.dims(), &numbers(tensor));
    let tensors = tensors.iter();
    let file = TensorFile {
        tensors: tensors
            .map(|(name, tensor)| (name.clone(), plain(tensor)))
            .collect(),
        ..TensorFile::default()
    };
    let notes = notes.iter();
    let notes = notes.map(|(key, note)| ((*key).to_owned(), (*note).to_owned()));
    fs::write(path, file.to_bytes_with(&notes.collect())).unwrap();
}

/// The one layer of a file that is written like this.
fn only(tensors: &BTreeMap<String, Tensor>, notes: &[(&str, &str)]) -> FittedLora {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lora.safetensors");
    write(&path, tensors, notes);
    let lora = fit(&path, &micro()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(lora.layers.len(), 1);
    lora
}

/// diffusers makes its alpha of a length, which is a whole number.
#[test]
fn an_alpha_may_be_a_whole_number() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lora.safetensors");
    let layer = format!("lora_unet_{}", QUERY.replace('.', "_"));
    let (down, up) = factors(LoraPart::Unet, QUERY);
    let bytes = |tensor: &Tensor| -> Vec<u8> {
        let numbers = numbers(tensor).into_iter();
        numbers.flat_map(f32::to_le_bytes).collect()
    };
    let (down_bytes, up_bytes) = (bytes(&down), bytes(&up));
    let file = |alpha: (Dtype, &[usize], &[u8])| {
        let (dtype, shape, bytes) = alpha;
        let view =
            |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
        let tensors = [
            (
                "lora_down.weight",
                view(Dtype::F32, down.dims(), &down_bytes),
            ),
            ("lora_up.weight", view(Dtype::F32, up.dims(), &up_bytes)),
            ("alpha", view(dtype, shape, bytes)),
        ];
        let named = tensors.map(|(name, view)| (format!("{layer}.{name}"), view));
        fs::write(&path, safetensors::serialize(named, None).unwrap()).unwrap();
        fit(&path, &micro())
    };
    let six: [(Dtype, Vec<u8>); 6] = [
        (Dtype::I64, 6_i64.to_le_bytes().to_vec()),
        (Dtype::I32, 6_i32.to_le_bytes().to_vec()),
        (Dtype::I16, 6_i16.to_le_bytes().to_vec()),
        (Dtype::U8, vec![6]),
        (Dtype::F64, 6_f64.to_le_bytes().to_vec()),
        (Dtype::F32, 6_f32.to_le_bytes().to_vec()),
    ];
    for (dtype, bytes) in &six {
        for shape in [&[][..], &[1]] {
            let lora = file((*dtype, shape, bytes)).unwrap_or_else(|error| panic!("{error}"));
            let scale = lora.layers[0].scale;
            assert!((scale - 2.0).abs() < 1e-12, "{dtype:?}: {scale}");
        }
    }
    // Two of them are none, and so is a truth.
    for (dtype, shape, bytes) in [
        (Dtype::I64, vec![2], vec![0; 16]),
        (Dtype::BOOL, vec![], vec![1]),
    ] {
        let error = file((dtype, &shape, &bytes)).unwrap_err();
        assert!(error.to_string().contains("is no number"), "{error}");
    }
}

/// diffusers numbers the text encoder of a model that has only one, too; a second one is another model's.
#[test]
fn the_first_of_numbered_text_encoders_is_the_only_one() {
    let (down, up) = factors(LoraPart::Text, WORDS);
    let named = |encoder: &str| {
        let layer = format!("lora_{encoder}_text_model_{}", WORDS.replace('.', "_"));
        BTreeMap::from([
            (format!("{layer}.lora_down.weight"), down.clone()),
            (format!("{layer}.lora_up.weight"), up.clone()),
        ])
    };
    for encoder in ["te", "te1"] {
        let lora = only(&named(encoder), &[]);
        assert_eq!(lora.format, LoraFormat::Kohya);
        assert_eq!(lora.count(LoraPart::Text), 1);
        assert_eq!(lora.layers[0].weight, format!("{WORDS}.weight"));
    }
    let mut both = named("te1");
    both.extend(named("te2"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lora.safetensors");
    write(&path, &both, &[]);
    let error = fit(&path, &micro()).unwrap_err();
    assert!(error.to_string().contains("Stable Diffusion XL"), "{error}");
}

#[test]
fn an_alpha_of_its_own_is_found_for_a_layer_of_the_text_encoder() {
    let (down, up) = factors(LoraPart::Text, WORDS);
    let tensors = BTreeMap::from([
        (
            format!("text_encoder.text_model.{WORDS}.lora_A.weight"),
            down,
        ),
        (format!("text_encoder.text_model.{WORDS}.lora_B.weight"), up),
    ]);
    for pattern in [
        format!("text_model.{WORDS}"),
        format!("^text_model.{WORDS}"),
        WORDS.to_owned(),
    ] {
        let settings = format!(
            r#"{{"text_encoder.lora_alpha": 1, "text_encoder.alpha_pattern": {{"{pattern}": 6}}}}"#
        );
        let lora = only(&tensors, &[("lora_adapter_metadata", &settings)]);
        let scale = lora.layers[0].scale;
        assert!((scale - 2.0).abs() < 1e-12, "{pattern}: {scale}");
    }
}

#[test]
fn an_alpha_that_nobody_knows_is_told() {
    let (down, up) = factors(LoraPart::Unet, QUERY);
    let tensors = BTreeMap::from([
        (format!("base_model.model.{QUERY}.lora_A.weight"), down),
        (format!("base_model.model.{QUERY}.lora_B.weight"), up),
    ]);
    let lora = only(&tensors, &[]);
    assert!((lora.layers[0].scale - 1.0).abs() < 1e-12);
    assert!(
        matches!(lora.remarks.as_slice(), [remark] if remark.contains("adapter_config.json") && remark.contains("alpha = rank is assumed")),
        "{:?}",
        lora.remarks
    );
    // With the settings in the header, or beside the file, there is nothing to tell.
    let settings = [("lora_adapter_metadata", r#"{"unet.lora_alpha": 6}"#)];
    assert_eq!(only(&tensors, &settings).remarks, [] as [&str; 0]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter_model.safetensors");
    write(&path, &tensors, &[]);
    fs::write(
        dir.path().join("adapter_config.json"),
        r#"{"lora_alpha": 6}"#,
    )
    .unwrap();
    let lora = fit(&path, &micro()).unwrap();
    assert_eq!(lora.remarks, [] as [&str; 0]);
    assert!((lora.layers[0].scale - 2.0).abs() < 1e-12);
}

/// What pivotal tuning leaves beside the factors: a tensor for each word that was learned.
#[test]
fn learned_words_are_left_out_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lora.safetensors");
    let folder = micro();
    let network = folder.lora_network().unwrap();
    let orders = fs::read_to_string(golden("lora/orders.json")).unwrap();
    let orders: BTreeMap<String, Vec<String>> = serde_json::from_str(&orders).unwrap();
    let mut tensors = BTreeMap::from([
        ("<s1>".to_owned(), noise(7, &[16])),
        ("<s2>".to_owned(), noise(8, &[16])),
    ]);
    for (i, layer) in orders["video"].iter().enumerate() {
        let shape = &network.unet[&format!("{layer}.weight")];
        tensors.insert(format!("unet:{i}:down"), noise(1, &[2, shape[1]]));
        tensors.insert(format!("unet:{i}:up"), noise(2, &[shape[0], 2]));
    }
    write(&path, &tensors, &[("<s1>", "<embed>"), ("<s2>", "<embed>")]);
    let lora = fit(&path, &folder).unwrap();
    assert_eq!(lora.format, LoraFormat::Numbered);
    assert_eq!(lora.layers.len(), orders["video"].len());
    let says = |lora: &FittedLora, words: &str| {
        assert!(
            matches!(lora.remarks.as_slice(), [remark] if remark.contains("not used") && remark.contains(words)),
            "{:?}",
            lora.remarks
        );
    };
    says(&lora, "<s1>, <s2>");
    // Without the note it is a tensor that nobody knows.
    write(&path, &tensors, &[("<s1>", "<embed>")]);
    let error = fit(&path, &folder).unwrap_err();
    assert!(error.to_string().contains("1 unexpected: <s2>"), "{error}");

    // As other programs bundle them.
    let (down, up) = factors(LoraPart::Unet, QUERY);
    let tensors = BTreeMap::from([
        (format!("unet.{QUERY}.lora.down.weight"), down),
        (format!("unet.{QUERY}.lora.up.weight"), up),
        (
            "bundle_emb.style.string_to_param.*".to_owned(),
            noise(7, &[2, 16]),
        ),
        ("bundle_emb.style.name".to_owned(), noise(7, &[1])),
    ]);
    says(&only(&tensors, &[]), "(style)");
    // Alone they are no LoRA.
    let alone = tensors
        .into_iter()
        .filter(|(name, _)| name.starts_with("bundle"));
    write(&path, &alone.collect(), &[]);
    assert!(!LoraFile::open(&path).unwrap().is_lora());
}

#[test]
fn the_size_of_the_letters_in_an_ending_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let (down, up) = factors(LoraPart::Unet, QUERY);
    let named = BTreeMap::from([
        (format!("{QUERY}.lora_A.weight"), down),
        (format!("{QUERY}.lora_B.weight"), up),
    ]);
    for name in ["style.pt", "STYLE.PT", "Style.Bin"] {
        let path = dir.path().join(name);
        fs::write(&path, checkpoint_of(&named)).unwrap();
        let lora = fit(&path, &micro()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(lora.layers.len(), 1, "{name}");
    }
}
