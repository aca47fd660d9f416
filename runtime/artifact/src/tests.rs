use std::fs;
use std::path::Path;

use crate::error::{ArtifactError, ManifestFault as Fault};
use crate::expr::ExprError;
use crate::format::{ENTRY_LEN, HEADER_LEN, Section, encode_head, sha256};
use crate::*;

fn kernel(name: &str, access: Access) -> Kernel {
    let param = KernelParam { name: "x".into(), dtype: DType::F32.into(), access: access.into() };
    Kernel {
        name: name.into(),
        entries: vec![1],
        params: vec![param],
        dim_names: vec!["n".into()],
        block: vec![1, 1, 1],
        text_hash: vec![],
        dynamic_shared_bytes: 0,
    }
}

fn info(name: &str) -> TensorInfo {
    let shape = vec![Expr::symbol(0), 4.into()];
    TensorInfo { name: name.into(), dtype: DType::F32.into(), shape, min_value: None, max_value: None }
}

fn arg(kind: BufferKind, index: u32) -> BufferRef {
    BufferRef { kind: kind.into(), index, byte_offset: None }
}

fn launch(kernel: u32, arg: BufferRef) -> Launch {
    Launch {
        kernel,
        grid: Some(Expr::symbol(0)),
        dims: vec![Expr::symbol(0) * 4.into()],
        args: vec![arg],
        ..Launch::default()
    }
}

fn manifest() -> Manifest {
    let batch =
        Symbol { name: "batch".into(), min: 1, max: 8, divisibility: 1, role: SymbolRole::Batch.into() };
    let state = State {
        name: "h".into(),
        kind: StateKind::Fixed.into(),
        dtype: DType::F32.into(),
        shape: vec![Expr::symbol(0)],
        in_place: false,
    };
    let program = Program {
        name: "forward".into(),
        inputs: vec![info("x")],
        outputs: vec![info("y")],
        slots: vec![Slot { size_bytes: Some(Expr::symbol(0) * 16.into()) }],
        launches: vec![launch(0, arg(BufferKind::Input, 0)), launch(1, arg(BufferKind::Output, 0))],
        levels: vec![],
        stateful: false,
        in_place: false,
    };
    Manifest {
        model_name: "toy".into(),
        model_hash: vec![7; 32],
        producer: "test".into(),
        symbols: vec![batch],
        kernels: vec![kernel("reads", Access::Read), kernel("writes", Access::Write)],
        states: vec![state],
        programs: vec![program],
        ..Manifest::default()
    }
}

fn write(path: &Path, manifest: Manifest) -> Result<u64, ArtifactError> {
    let mut writer = ArtifactWriter::create(path)?;
    writer.add_code(Level { name: "base".into(), arch: "x86_64".into(), features: vec![] }, vec![0xc3; 5]);
    let weight = WeightInfo::plain("w", DType::F32, &[2, 3]);
    writer.add_weight(weight, |out| (0..3).try_for_each(|i| out.write_all(&[i; 8])))?;
    let packed = WeightInfo { packing: "tiles".into(), ..WeightInfo::plain("packed", DType::Bf16, &[3]) };
    writer.add_weight(packed, |out| out.write_all(&[9; 64]))?;
    let call = GoldenCall { program: "forward".into(), ..GoldenCall::default() };
    let case = GoldenCase { name: "case".into(), calls: vec![call], rtol: 0.0, atol: 0.0 };
    writer.set_golden(Golden { cases: vec![case] });
    writer.add_text("raised", "func @f() {}");
    writer.finish(manifest)
}

/// The bytes of a valid artefact.
fn valid() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("toy.ssmc");
    let length = write(&path, manifest()).unwrap();
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len() as u64, length);
    bytes
}

fn open(bytes: &[u8]) -> Result<ArtifactReader<&[u8]>, ArtifactError> {
    ArtifactReader::open(bytes)
}

/// A valid artefact whose table was changed and signed anew.
fn with_table(change: impl FnOnce(&mut Vec<Section>)) -> Vec<u8> {
    let mut bytes = valid();
    let mut sections = open(&bytes).unwrap().sections().to_vec();
    let old_head = HEADER_LEN + sections.len() * ENTRY_LEN;
    change(&mut sections);
    let head = encode_head(&sections, bytes.len() as u64).unwrap();
    bytes[..old_head].fill(0);
    bytes[..head.len()].copy_from_slice(&head);
    bytes
}

fn section_error(change: impl FnOnce(&mut Vec<Section>)) -> String {
    open(&with_table(change)).unwrap_err().to_string()
}

#[test]
fn reads_what_was_written() {
    let bytes = valid();
    let reader = open(&bytes).unwrap();
    let found = reader.manifest();
    assert_eq!(found.programs, manifest().programs);
    assert_eq!(found.levels[0].name, "base");
    assert_eq!(reader.code(0), Some(&[0xc3; 5][..]));
    assert_eq!(reader.code(1), None);
    assert_eq!((found.weights[0].offset, found.weights[0].length), (0, 24));
    assert_eq!((found.weights[1].offset, found.weights[1].length), (64, 64));
    assert_eq!(reader.weight(0)[8..16], [1; 8]);
    assert_eq!(reader.weight(1), [9; 64]);
    assert_eq!(reader.golden().unwrap().cases[0].name, "case");
    assert_eq!(reader.texts().unwrap()[0].text, "func @f() {}");
    assert!(reader.sections().iter().all(|section| section.offset % SECTION_ALIGN == 0));
    reader.verify_weights().unwrap();
    assert_eq!(bytes, valid(), "equal calls must give equal bytes");
}

#[test]
fn refuses_every_truncation() {
    let bytes = valid();
    let sections = open(&bytes).unwrap().sections().to_vec();
    let mut ends = vec![0, 1, 7, 8, 11, 12, 31, 63, 64, 65, 127, 128, 64 + 64 * sections.len(), 4095, 4096];
    ends.extend(
        sections.iter().flat_map(|section| [section.offset, section.offset + 1]).map(|end| end as usize),
    );
    ends.extend(sections.iter().map(|section| (section.offset + section.length) as usize - 1));
    for end in ends {
        let error = open(&bytes[..end]).unwrap_err();
        let expected = match end {
            ..8 => matches!(error, ArtifactError::Magic { .. }),
            8..64 => matches!(error, ArtifactError::Truncated { what: "header", .. }),
            _ => matches!(error, ArtifactError::FileLength { .. }),
        };
        assert!(expected, "{end} bytes: {error}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(open(&longer), Err(ArtifactError::FileLength { .. })));
}

#[test]
fn notices_every_flipped_byte() {
    let valid = valid();
    let sections = open(&valid).unwrap().sections().to_vec();
    let is_data = |at: u64| {
        let table_end = (HEADER_LEN + sections.len() * ENTRY_LEN) as u64;
        at < table_end || sections.iter().any(|s| at >= s.offset && at < s.offset + s.length)
    };
    let mut bytes = valid.clone();
    for at in (0..bytes.len()).filter(|&at| is_data(at as u64) || at % 101 == 0) {
        bytes[at] ^= 0x40;
        let noticed = open(&bytes).and_then(|reader| {
            reader.verify_weights()?;
            reader.golden()?;
            reader.texts()
        });
        assert!(noticed.is_err(), "byte {at}");
        bytes[at] ^= 0x40;
    }
    assert_eq!(bytes, valid);
}

#[test]
fn names_the_corrupt_section() {
    let sections = open(&valid()).unwrap().sections().to_vec();
    for section in sections {
        let mut bytes = valid();
        bytes[section.offset as usize] ^= 1;
        let result = open(&bytes).and_then(|reader| match section.kind {
            SectionKind::Weights => reader.verify_weights(),
            SectionKind::Golden => reader.golden().map(drop),
            SectionKind::Texts => reader.texts().map(drop),
            SectionKind::Manifest | SectionKind::Code(_) | SectionKind::Cubin(_) => Ok(()),
        });
        let Err(ArtifactError::Checksum { what, expected, found }) = result else { panic!("{section:?}") };
        assert_eq!(what, section.kind.to_string());
        assert_ne!(expected, found);
    }
}

#[test]
fn refuses_other_files_and_versions() {
    let mut other = valid();
    other[..8].copy_from_slice(b"GGUF\x03\0\0\0");
    assert!(open(&other).unwrap_err().to_string().starts_with("not an ssmc artefact"));
    let mut newer = valid();
    newer[8] = 2;
    let error = open(&newer).unwrap_err();
    assert_eq!(error.to_string(), "unsupported artefact format version: expected 1, found 2");
    let mut crowded = valid();
    crowded[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(open(&crowded), Err(ArtifactError::TooManySections { found: u32::MAX, .. })));
}

#[test]
fn refuses_bad_section_tables() {
    let error = section_error(|sections| sections[1].length = u64::MAX);
    assert!(error.contains("section code[0] spans 18446744073709551615 bytes"), "{error}");
    let error = section_error(|sections| sections[0].length = 4097);
    assert!(
        error.contains("section code[0] starts at byte 8192 inside section weights, expected at least 8193"),
        "{error}"
    );
    let error = section_error(|sections| sections[0].offset = 0);
    assert!(error.contains("inside the section table"), "{error}");
    let error = section_error(|sections| sections[1].offset += 1);
    assert!(error.contains("expected a multiple of 4096"), "{error}");
    let error = section_error(|sections| sections[1].offset = u64::MAX - 4095);
    assert!(error.contains("the file has"), "{error}");
    let error = section_error(|sections| sections.swap(0, 1));
    assert!(error.contains("lies between sections"), "{error}");
    let error = section_error(|sections| sections[2].kind = SectionKind::Weights);
    assert_eq!(error, "section weights occurs twice");
    let error = section_error(|sections| sections[1].kind = SectionKind::Code(7));
    assert_eq!(error, "section code[0] is missing");
    let error = section_error(|sections| sections[0].kind = SectionKind::Code(9));
    assert_eq!(error, "section weights is missing");
    let error = section_error(|sections| sections[4].kind = SectionKind::Code(3));
    assert_eq!(error, "section manifest is missing");
    let error = section_error(|sections| sections[0].length = 1);
    assert!(error.contains("lies between sections"), "{error}");

    let mut unknown = valid();
    let sections = open(&unknown).unwrap().sections().to_vec();
    unknown[HEADER_LEN] = 77;
    let table = unknown[HEADER_LEN..HEADER_LEN + sections.len() * ENTRY_LEN].to_vec();
    let checksum = sha256(&[&unknown[..32], &table]);
    unknown[32..64].copy_from_slice(&checksum);
    assert_eq!(open(&unknown).unwrap_err().to_string(), "section table entry 0 has unknown kind 77");
}

#[test]
fn refuses_a_section_that_is_no_message() {
    let bytes = with_table(|sections| {
        sections[4].kind = SectionKind::Code(0);
        sections[1].kind = SectionKind::Manifest;
    });
    let error = open(&bytes).unwrap_err();
    assert!(matches!(&error, ArtifactError::Decode { what, .. } if what == "manifest"), "{error}");
}

#[test]
fn refuses_manifests_that_contradict_themselves() {
    type Change = fn(&mut Manifest);
    let cases: &[(&str, Change, Fault)] = &[
        (
            "programs[0] \"forward\": launches[1]: args[0] \"x\"",
            |m| m.programs[0].launches[1].args[0].index = 3,
            Fault::Index { what: "output", found: 3, count: 1 },
        ),
        (
            "programs[0] \"forward\": launches[1]: args[0] \"x\"",
            |m| m.programs[0].launches[1].args[0] = arg(BufferKind::Weight, 0),
            Fault::ReadOnly { what: "weight" },
        ),
        (
            "programs[0] \"forward\": launches[0]: args[0] \"x\"",
            |m| m.programs[0].launches[0].args[0] = arg(BufferKind::StateIn, 0),
            Fault::Stateless,
        ),
        (
            "programs[0] \"forward\": launches[0]",
            |m| m.programs[0].launches[0].kernel = 2,
            Fault::Index { what: "kernel", found: 2, count: 2 },
        ),
        (
            "programs[0] \"forward\": launches[0]",
            |m| m.programs[0].launches[0].grid = None,
            Fault::Missing { what: "grid" },
        ),
        (
            "programs[0] \"forward\": launches[0]",
            |m| m.programs[0].launches[0].dims.clear(),
            Fault::Count { what: "dims", expected: 1, found: 0 },
        ),
        (
            "programs[0] \"forward\": outputs[0] \"y\"",
            |m| m.programs[0].outputs[0].shape[0] = Expr::symbol(1),
            Fault::Expr { what: "shape", error: ExprError::UnknownSymbol { index: 1, count: 1 } },
        ),
        (
            "programs[0] \"forward\"",
            |m| m.programs[0].inputs[0].shape[0] = Expr::symbol(0) * 2.into(),
            Fault::Unbound { symbol: "batch".into() },
        ),
        (
            "programs[1] \"forward\"",
            |m| m.programs.push(m.programs[0].clone()),
            Fault::Duplicate { name: "forward".into() },
        ),
        (
            "kernels[1] \"reads\"",
            |m| m.kernels[1].name = "reads".into(),
            Fault::Duplicate { name: "reads".into() },
        ),
        (
            "kernels[0] \"reads\"",
            |m| m.kernels[0].entries[0] = 5,
            Fault::Bounds { offset: 5, length: 1, limit: 5 },
        ),
        (
            "kernels[0] \"reads\"",
            |m| m.kernels[0].entries.clear(),
            Fault::Count { what: "entries", expected: 1, found: 0 },
        ),
        ("states[0] \"h\"", |m| m.states[0].dtype = 0, Fault::Enum { what: "dtype", found: 0 }),
        ("symbols[0] \"batch\"", |m| m.symbols[0].min = 9, Fault::Symbol { min: 9, max: 8, divisibility: 1 }),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.ssmc");
    for (place, change, expected) in cases {
        let mut manifest = manifest();
        change(&mut manifest);
        let Err(ArtifactError::Manifest { at, fault }) = write(&path, manifest) else { panic!("{place}") };
        assert_eq!((at.as_str(), &fault), (*place, expected));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing must be left behind");
}

/// A manifest with a product of 4 columns and depth 8 in `bf16` to `f32`.
fn with_product() -> Manifest {
    let mut manifest = manifest();
    // There is no level.
    manifest.kernels.iter_mut().for_each(|kernel| kernel.entries.clear());
    let param =
        |dtype: DType| KernelParam { name: "p".into(), dtype: dtype.into(), access: Access::Read.into() };
    let [x, w, addend, y] = [DType::Bf16, DType::Bf16, DType::F32, DType::F32].map(param);
    manifest.kernels[1].params = vec![x, w, addend, KernelParam { access: Access::Write.into(), ..y }];
    let launch = &mut manifest.programs[0].launches[1];
    let read = || arg(BufferKind::Input, 0);
    launch.args = vec![read(), read(), read(), arg(BufferKind::Output, 0)];
    launch.product = Some(Product {
        rows: Some(Expr::symbol(0)),
        cols: 4,
        depth: 8,
        x_pitch: 8,
        w: 1,
        addend: Some(2),
        y: 3,
        ..Product::default()
    });
    manifest
}

#[test]
fn refuses_products_that_no_library_has() {
    fn product(manifest: &mut Manifest) -> &mut Product {
        manifest.programs[0].launches[1].product.as_mut().unwrap()
    }
    let fault = |change: fn(&mut Manifest)| {
        let mut manifest = with_product();
        change(&mut manifest);
        check_manifest(&manifest).map_err(|error| match error {
            ArtifactError::Manifest { fault, .. } => fault.to_string(),
            other => panic!("{other}"),
        })
    };
    assert_eq!(fault(|_| ()), Ok(()));
    type Case = (&'static str, fn(&mut Manifest));
    let cases: &[Case] = &[
        ("rows is missing", |m| product(m).rows = None),
        ("rows: expression names symbol 1", |m| product(m).rows = Some(Expr::symbol(1))),
        ("product: columns 0, expected 1 to 2147483648", |m| product(m).cols = 0),
        ("product: depth 18446744073709551615, expected", |m| product(m).depth = u64::MAX),
        ("product: x_pitch 7, expected 8 to", |m| product(m).x_pitch = 7),
        ("arg index 4, expected less than 4", |m| product(m).bias = Some(4)),
        ("product: x f32, expected f16 or bf16", |m| product(m).x = 2),
        ("product: w f32, expected bf16", |m| product(m).w = 2),
        ("product: addend bf16, expected f32", |m| product(m).addend = Some(0)),
        ("a parameter that is written is bound to the result of a product", |m| product(m).y = 2),
    ];
    for (expected, change) in cases {
        let found = fault(*change).unwrap_err();
        assert!(found.starts_with(expected), "{found}, expected {expected}");
    }
}

#[test]
fn leaves_the_old_file_when_writing_fails() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.ssmc");
    fs::write(&path, b"old").unwrap();
    let mut writer = ArtifactWriter::create(&path).unwrap();
    let short = writer.add_weight(WeightInfo::plain("w", DType::F16, &[4]), |out| out.write_all(&[0; 7]));
    let error = short.unwrap_err();
    assert_eq!(error.to_string(), "weight w: expected 8 bytes, found 7");
    let failing =
        writer.add_weight(WeightInfo::plain("v", DType::U8, &[1]), |_| Err(std::io::Error::other("disk")));
    assert!(matches!(failing, Err(ArtifactError::Io { .. })));
    drop(writer);
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert!(matches!(ArtifactWriter::create(dir.path().join("..")), Err(ArtifactError::NoFileName { .. })));
    assert!(matches!(ArtifactWriter::create(dir.path()), Err(ArtifactError::NoRegularFile { .. })));
}

#[test]
fn state_blobs_round_trip_and_refuse_corruption() {
    let array = NamedArray { name: "h".into(), dtype: DType::F32.into(), dims: vec![2], data: vec![1; 8] };
    let blob = StateBlob { model_hash: vec![3; 32], position: 17, batch: 2, states: vec![array] };
    let bytes = encode_state(&blob);
    assert_eq!(decode_state(&bytes).unwrap(), blob);
    for end in 0..bytes.len() {
        assert!(decode_state(&bytes[..end]).is_err(), "{end} bytes");
    }
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        assert!(decode_state(&flipped).is_err(), "byte {at}");
    }
    assert!(decode_state(&[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn cubins_lie_beside_code_and_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gpu.ssmc");
    let mut writer = ArtifactWriter::create(&path).unwrap();
    for name in ["sm_80", "sm_90a"] {
        let level = Level { name: name.into(), arch: "nvptx64".into(), features: vec![name.into()] };
        let index = writer.add_code(level, b".version 8.0".to_vec());
        if name == "sm_90a" {
            writer.add_cubin(index, b"machine code".to_vec());
        }
    }
    writer.finish(Manifest::default()).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let reader = open(&bytes).unwrap();
    assert_eq!([reader.cubin(0), reader.cubin(1)], [None, Some(&b"machine code"[..])]);
    assert_eq!(reader.code(1), Some(&b".version 8.0"[..]));
    let at = reader.section(SectionKind::Cubin(1)).unwrap().offset as usize;
    bytes[at] ^= 1;
    let fault = open(&bytes).unwrap_err();
    assert!(matches!(&fault, ArtifactError::Checksum { what, .. } if what == "cubin[1]"), "{fault}");
}
