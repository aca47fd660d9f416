use super::*;
use std::fs;

/// y = x + w with the two elements of w in this file entry.
fn with_external(entries: &[(&str, &str)]) -> ModelProto {
    let entry =
        |(k, v): &(&str, &str)| StringStringEntryProto { key: Some((*k).into()), value: Some((*v).into()) };
    let mut w = TensorProto { external_data: entries.iter().map(entry).collect(), ..floats("w", &[2], &[]) };
    w.set_data_location(tensor_proto::DataLocation::External);
    model(18, graph(&["x[2]"], vec![w], vec![node("Add x w -> y", vec![])], &["y[2]"]))
}

/// The faults, or nothing, of a model beside `w.bin`, which holds 4 numbers.
fn faults(entries: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("model");
    fs::create_dir_all(inside.join("sub")).unwrap();
    let data: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    for name in ["model/w.bin", "model/sub/w.bin", "outside.bin", "model/twice.bin"] {
        fs::write(folder.path().join(name), &data).unwrap();
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(folder.path().join("outside.bin"), inside.join("link.bin")).unwrap();
        std::os::unix::fs::symlink(inside.join("w.bin"), inside.join("good_link.bin")).unwrap();
        fs::hard_link(inside.join("twice.bin"), inside.join("hard.bin")).unwrap();
    }
    match import_model(&with_external(entries), &inside.join("model.onnx"), &[]) {
        Ok(model) => {
            let weight = model.graph.nodes().find(|(_, n)| n.op.name() == "constant").expect("w is small");
            format!("{:?}", weight.1.op)
        }
        Err(e) => e.to_string(),
    }
}

#[test]
fn the_range_of_the_file_is_used() {
    let bytes: Vec<u8> = [2f32, 3.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    for file in ["w.bin", "sub/w.bin", "./w.bin"] {
        let found = faults(&[("location", file), ("offset", "4"), ("length", "8")]);
        assert!(found.contains(&format!("{bytes:?}")), "{found}");
    }
}

#[test]
fn nothing_outside_the_folder_is_read() {
    let inside = "a path inside the model's folder";
    for file in ["../outside.bin", "/etc/hostname", "sub/../../outside.bin", "sub/..", "", "."] {
        let found = faults(&[("location", file)]);
        assert!(found.contains(inside), "{file:?}: {found}");
    }
    assert!(faults(&[("length", "8")]).contains("expected a location"));
    assert!(faults(&[("location", "no.bin")]).contains("a readable file"));
    assert!(faults(&[("location", "sub")]).contains("a regular file"));
}

#[cfg(unix)]
#[test]
fn links_that_leave_the_folder_are_refused() {
    assert!(faults(&[("location", "link.bin")]).contains("a link that leaves it"));
    assert!(faults(&[("location", "hard.bin")]).contains("several hard links"));
    assert!(!faults(&[("location", "good_link.bin")]).contains("expected"));
}

#[test]
fn ranges_stay_inside_the_file() {
    for (offset, length) in [("12", "8"), ("17", "8"), ("18446744073709551615", "8")] {
        let found = faults(&[("location", "w.bin"), ("offset", offset), ("length", length)]);
        assert!(found.contains("a range inside the 16 bytes"), "{found}");
    }
    assert!(faults(&[("location", "w.bin"), ("length", "12")]).contains("expected 8 bytes, found length 12"));
    assert!(faults(&[("location", "w.bin"), ("offset", "-1")]).contains("offset as a number"));
}
