//! A planted fault: a kernel that writes where nothing is. The error must name the kernel and the launch.

use crate::Result;
use ssmc_artifact::{ArtifactReader, ArtifactWriter};
use ssmc_codegen::assemble::{ArtifactInput, write};
use ssmc_ir::DType;
use ssmc_runtime::{Artifact, DType as BufferType, Session, SessionOptions, Tensor};
use ssmc_tests::gpu_grid::{cases, kernels};

/// Writes a word to address 8.
const WILD: &str = "{ .reg .b64 %wild; mov.b64 %wild, 8; st.global.b64 [%wild], %wild; }\n\tret;";

/// Whether the error names what is at fault. Nothing runs on the device behind this: a fault ends what the driver does for
/// a process.
pub(crate) fn run() -> Result<bool> {
    let case = "norm of odd sizes";
    let dir = tempfile::tempdir()?;
    let [right, wrong] = ["right.ssmc", "wrong.ssmc"].map(|name| dir.path().join(name));
    write(&right, &kernels(&cases(DType::F32, case)?)?, ArtifactInput::default(), &mut |_, _, _| {})?;
    let reader = ArtifactReader::open(std::fs::read(&right)?)?;
    let mut writer = ArtifactWriter::create(&wrong)?;
    for (i, level) in reader.manifest().levels.iter().enumerate() {
        let text = std::str::from_utf8(reader.code(i as u32).ok_or("a level has no code")?)?;
        writer.add_code(level.clone(), text.replace("ret;", WILD).into_bytes());
    }
    writer.finish(reader.manifest().clone())?;
    let options = SessionOptions {
        max_batch: 1,
        maxima: vec![("len".to_owned(), 3)],
        check_launches: true,
        ..SessionOptions::default()
    };
    let mut session = Session::new(&Artifact::open(&wrong)?, &options)?;
    let [x, w] = [&[1, 3, 33][..], &[33]].map(|dims| Tensor::zeros(BufferType::F32, dims));
    let (x, w) = (x?, w?);
    let known = &reader.manifest().kernels;
    match session.run(case, &[("x", x.view()), ("w", w.view())]) {
        Ok(_) => {
            println!("fault: nobody noticed");
            Ok(false)
        }
        Err(error) => {
            let text = error.to_string();
            let is_named = known.iter().any(|kernel| text.contains(&kernel.name))
                && text.contains("launch 0 of program");
            println!("fault: {}: {text}", if is_named { "named" } else { "NOT NAMED" });
            Ok(is_named)
        }
    }
}
