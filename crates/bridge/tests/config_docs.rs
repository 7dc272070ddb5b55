//! `docs/configuration.md` has the table of keys as it is in the code.

use enclave_bridge::config::keys_table;

const BEGIN: &str = "<!-- the table of keys in the code; a test compares -->\n";
const END: &str = "<!-- end of the table -->\n";

#[test]
fn the_table_in_the_documentation_is_the_table_in_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let text = std::fs::read_to_string(path).unwrap();
    let table = text.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).map(|(table, _)| table);
    let expected = keys_table();
    assert_eq!(table, Some(expected.as_str()), "docs/configuration.md should have between its marks:\n{expected}");
}
