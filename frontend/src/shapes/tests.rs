use super::*;

fn given(text: &str) -> InputShape {
    text.parse().unwrap()
}

fn shape(dims: &[&str]) -> Shape {
    dims.iter().map(|d| d.parse::<i64>().map_or_else(|_| Dim::symbol(d), Dim::from)).collect()
}

#[test]
fn texts_are_read() {
    let x = given("x:B,T<=4096,768,_,_<=5");
    let symbol = |name: &str, max| Extent::Symbol(name.to_owned(), max);
    let expected = [
        symbol("B", None),
        symbol("T", Some(4096)),
        Extent::Fixed(768),
        Extent::Declared,
        Extent::Bounded(5),
    ];
    assert_eq!((x.input.as_str(), x.extents.as_slice()), ("x", expected.as_slice()));
    assert_eq!(given("a:b:0: 1 , 2").input, "a:b:0");
    assert_eq!(given("scalar:").extents, []);
    for bad in ["x", ":1", "x:1,", "x:-1", "x:T<=0", "x:4<=5", "x:T<=a", "x:a b"] {
        let error = bad.parse::<InputShape>().unwrap_err().to_string();
        assert!(error.contains(bad), "{error}");
    }
}

#[test]
fn one_axis_binds_its_symbol_in_all_inputs() {
    let (x, y) = (shape(&["batch", "seq", "768"]), shape(&["batch", "4"]));
    let declared = [("x", Some(&x)), ("y", Some(&y))];
    let binding = Binding::new(&[given("x:2,T<=64,768")], &declared).unwrap();
    assert_eq!(binding.apply(&x), shape(&["2", "T", "768"]));
    assert_eq!(binding.apply(&y), shape(&["2", "4"]));
    assert_eq!(binding.maxima, BTreeMap::from([("T".to_owned(), 64)]));
    let binding = Binding::new(&[given("x:_,_<=8,_")], &declared).unwrap();
    assert_eq!((binding.apply(&x), binding.maxima["seq"]), (x.clone(), 8));
}

#[test]
fn every_contradiction_is_found() {
    let (x, y) = (shape(&["batch", "768"]), shape(&["batch"]));
    let declared = [("x", Some(&x)), ("y", Some(&y)), ("z", None)];
    let faults = |given: &[InputShape]| -> Vec<String> {
        Binding::new(given, &declared).unwrap_err().iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        faults(&[given("x:2,512"), given("y:3"), given("y:1,2"), given("w:1")]),
        [
            "input \"x\" axis 1: expected 768, found 512",
            "input \"y\" axis 0: expected 2, found 3",
            "input \"y\": expected 1 axes, found 2",
            "there is no input \"w\", expected one of x, y, z",
        ]
    );
    assert_eq!(faults(&[given("x:_,C")]), ["input \"x\" axis 1: expected 768, found C"]);
    assert_eq!(faults(&[given("x:_,_<=9")]), ["input \"x\" axis 1: expected 768, found _<=9"]);
    assert_eq!(faults(&[given("z:1,_")]).len(), 1);
    assert_eq!(Binding::shape(&given("z:1,T")), shape(&["1", "T"]));
}
