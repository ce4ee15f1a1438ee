# Operator and sidecar as static binaries, and nothing else: no shell, no library, no package to update.
# Built by `lab images`, which compiles the two for x86_64-unknown-linux-gnu with a static C runtime.
FROM scratch
COPY operator /operator
COPY sidecar /sidecar
USER 65532:65532
ENTRYPOINT ["/operator"]
