//! The catalogue's prices are those of another table, or `docs/reference/price-differences.md` says why not.

use nullspend_e2e::program::program;

use crate::sdk::python;

#[tokio::test]
async fn prices_agree_with_another_table_except_where_the_page_says_why() {
    let ran = python("differential/prices.py").arg(program()).output().await.expect("it runs");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
}
