//! The command line.

use data_api::DataApi;
use pipekeeper_testing::service::Program;

const BINARY: &str = env!("CARGO_BIN_EXE_data-api");

pipekeeper_testing::promises_of_a_service!(DataApi, BINARY);

#[test]
fn the_api_describes_itself() {
    let run = Program::<DataApi>::new(BINARY).run(&["openapi"], &[]);
    insta::assert_snapshot!(run.stdout);
}
