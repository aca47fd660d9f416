//! Bring-up.
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let model = match ssmc::import(args[1].as_ref()) { Ok(m) => m, Err(e) => { eprintln!("{e}"); std::process::exit(6) } };
    let compiled = match ssmc::Compiler::default().compile(&model) { Ok(m) => m, Err(e) => { eprintln!("{e}"); std::process::exit(5) } };
    for p in &compiled.programs {
        eprintln!("{}: {} groups, {} slots, {:?}", p.name, p.plan.groups.len(), p.plan.slots.len(), p.report.fired);
        for g in &p.plan.groups { eprintln!("   {} {} members epi {}", p.plan.graph.node(g.root).op.name(), g.members.len(), g.epilogue.len()); }
    }
    eprintln!("{} kernels", compiled.kernels.kernels.len());
    let t = std::time::Instant::now();
    match compiled.write(args[2].as_ref(), ssmc::WriteOptions { model_name: "m".into() }) { Ok(n) => eprintln!("{n} bytes {:?}", t.elapsed()), Err(e) => { eprintln!("{e}"); std::process::exit(5) } }
}
