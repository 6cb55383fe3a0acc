{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}
{{- define "peerpods.image" -}}
{{ required "image.name: where you have pushed the image that install/images/Containerfile makes" .Values.image.name }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "peerpods.labels" -}}
app.kubernetes.io/part-of: peerpods
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "peerpods.secretName" -}}
{{- if eq .Values.secrets.mode "create" -}}
peer-pods-secret
{{- else if eq .Values.secrets.mode "reference" -}}
{{ required "secrets.existingSecretName: secrets.mode is reference" .Values.secrets.existingSecretName }}
{{- else -}}
{{ fail "secrets.mode: neither create nor reference" }}
{{- end -}}
{{- end }}

{{- /* Rights and accounts, as install/rbac has them for everybody */ -}}
{{- define "peerpods.rbac" -}}
{{ required (printf "rbac/%s.yaml is missing in the chart" .component) (.Files.Get (printf "rbac/%s.yaml" .component)) | replace "confidential-containers-system" .Release.Namespace | replace "peer-pods-secret" (include "peerpods.secretName" .) }}
{{- end }}

{{- define "peerpods.hardened" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}
