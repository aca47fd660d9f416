//! Developer tasks of ssmc. Drives the `ssmc` binary; links neither the compiler nor LLVM, but for tract, which the
//! frontend wraps, with the feature `oracle`.

mod args;
mod bench;
mod bless;
mod corpus;
mod demo;
mod onnx_tests;
mod process;
mod progress;
mod scramble;
mod tidy;

use std::error::Error;
use std::process::ExitCode;

/// Any fault, for people.
type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const USAGE: &str = "usage: cargo xtask TASK

tasks:
  tidy                      rules of the code base that no compiler checks
  corpus DIR [options]      compile and run every case of a corpus folder
    --kind onnx|checkpoint    cases of one kind
    --filter RE               cases whose name matches
    --target LEVEL            code level to compile for; cpu (the default) takes all
    --weights FORMAT          store weights in bf16, f16, int8 or int4; bounds are root mean squares of 1, 1, 3 and 8 %
    --streaming               derive programs with state, feed the sequences in pieces, compare
    --optimize                write every model as optimized ONNX, compare and measure both in onnxruntime
    --jobs N                  cases at a time (1; all processors for scramble)
    --stage kernel            also compare every kernel in the interpreter with the machine code
    --json FILE               write the results, - for stdout
    --bin FILE                ssmc to use instead of building one
    --profile NAME            cargo profile of what is built (dev)
  scramble SEED DIR [options]
                            corpus with every ONNX model rewritten into an equivalent one
  onnx-node-tests [options] compile and run the backend tests of the package onnx; with the feature `oracle` in tract too
    --wheel FILE              the package instead of the one that scripts/onnx-node-tests.sh fetches
    --filter RE               tests whose name matches
    --json FILE               write the results, - for stdout
    --bless all               rewrite frontend/onnx-node-tests.txt and docs/onnx.md
    --jobs N                  tests at a time
    --bin FILE --runner FILE  ssmc and ssmc-runner to use instead of building them
    --profile NAME            as above
  bench cpu [options]       our programs, peers and the limits of the machine, interleaved in one run
    --peers DIR               other programs with their models; see CONTRIBUTING.md
    --filter TEXT             rows whose name contains the text
    --threads A,B --rounds N  (1,2; 3)
    --steps N                 single steps in each measurement (64)
    --append FILE             add the table to this file
    --dir DIR --bin FILE --profile NAME  as for spine
  bench spine [options]     compile and run a large model with random weights
    --shape NAME              mamba-130m (the default) or mamba2-130m
    --storage NAME            element type of the weights: f32 (the default), f16 or bf16
    --dir DIR                 where the model goes and stays
    --bin FILE --profile NAME as above (release)
  bench unrolled [options]  a recurrence written out step by step against the same weights from safetensors
    --steps N --layers N      how long (256) and how deep (24)
    --dir DIR --bin FILE --profile NAME  as for spine
  bench gpu [options]       time single kernels on a GPU, recompute parts of their results
    --filter TEXT             rows whose name contains the text
    --bin FILE --profile NAME ssmc-gpu-bench to use; as above (release)
  bless [FILTER]            rewrite the expected results of tests
  codegen                   rewrite generated documents
  demo-typeseg FILE         split a text with the model of the PyPI package typeseg";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let task = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    let result = match task.as_str() {
        "tidy" => tidy::main(&rest),
        "corpus" => corpus::main(&rest),
        "scramble" => scramble::main(&rest),
        "onnx-node-tests" => onnx_tests::main(&rest),
        "bench" => bench::main(&rest),
        "bless" => bless::bless(&rest),
        "codegen" => bless::codegen(&rest),
        #[cfg(feature = "oracle")]
        onnx_tests::PEER => onnx_tests::peer(&rest),
        "demo-typeseg" => demo::main(&rest),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask {task}: {error}");
            ExitCode::from(2)
        }
    }
}
