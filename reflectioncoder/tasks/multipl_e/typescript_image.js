// A process image of the TypeScript compiler: `node --build-snapshot` runs this file once, and what is in memory then
// is where every later compilation starts. It has read and parsed the library; the candidate's file is read, checked
// and written as `tsc --target esnext FILE` does. Only the library's own text is not checked again.
const box = { exports: {} };
(function (module, exports, __filename, __dirname) {
/* THE COMPILER */
})(box, box.exports, "LIBRARY_FOLDER/typescript.js", "LIBRARY_FOLDER");
const ts = box.exports;
const libraryFolder = "LIBRARY_FOLDER/";
const options = { target: ts.ScriptTarget.ESNext, skipLibCheck: true };
const libraryFiles = new Map();

function compile(names) {
  const host = ts.createCompilerHost(options);
  const read = host.getSourceFile;
  host.getDefaultLibLocation = () => libraryFolder;
  host.getSourceFile = (name, ...rest) => {
    if (!name.startsWith(libraryFolder)) return read(name, ...rest);
    if (!libraryFiles.has(name)) libraryFiles.set(name, read(name, ...rest));
    return libraryFiles.get(name);
  };
  const program = ts.createProgram(names, options, host);
  // as tsc does: what an earlier stage finds keeps the later ones silent
  let found = program.getSyntacticDiagnostics();
  if (!found.length) found = program.getOptionsDiagnostics().concat(program.getGlobalDiagnostics());
  if (!found.length) found = program.getSemanticDiagnostics();
  found = found.concat(program.emit().diagnostics);
  process.stdout.write(ts.formatDiagnostics(ts.sortAndDeduplicateDiagnostics(found), host));
  process.exitCode = found.some((one) => one.category === ts.DiagnosticCategory.Error) ? 2 : 0;
}

compile(["main.ts"]);
process.exitCode = 0;
require("v8").startupSnapshot.setDeserializeMainFunction(() => compile(process.argv.slice(2)));
